"""What may be chosen of concepts, by name; light, as it is read before any work."""

from __future__ import annotations

from typing import Literal

# Who says what is in a picture: neurons that are active on it, by their codes and the signed
# projections of their effects; the same by lengths, as published; heads, by codes of what they
# wrote; or a code of the embedding itself.
Method = Literal["neurons", "published", "heads", "embedding"]
OF_NEURONS = frozenset({"neurons", "published"})
# Of 100 images, on so many an active neuron writes less.
PERCENT = 98
# Texts of a head's code, and of the embedding's.
HEAD_TERMS, EMBEDDING_TERMS = 8, 32
# Of the lasso that codes the embedding: a text whose correlation is no larger is not in a code.
PENALTY = 0.2
