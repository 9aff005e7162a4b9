"""The texts that neurons were coded with, with their embeddings as the store keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.results import Result, finished_results
from storage.store import Store


@dataclass(frozen=True, eq=False)
class CodedPool:
    """A pool: its name, texts, and unit embeddings (M, E) float32."""

    source: str
    texts: tuple[str, ...]
    embeddings: NDArray[np.float32]


def pool_of_codes(store: Store, codes: Result) -> CodedPool | None:
    """The pool that codes were made with; None where its embeddings are not kept any more."""
    name = str(codes.provenance["texts"]).rstrip("/").rpartition("/")[2]
    for result in finished_results(store.url, "encode_texts"):
        if result.name == name:
            texts = tuple(result.table("texts")["text"].to_pylist())
            rows = result.arrays("embeddings")["embedding"].values
            return CodedPool(str(result.provenance["source"]), texts, rows)
    return None
