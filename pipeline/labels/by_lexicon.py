"""A list of properties as the judge: of a head, and of single texts.

A head is about the property whose texts explain most of its variance. A longer list has more to
choose from, so no list counts whole: from each, TextSpan in covariance space picks the same small
number of texts one after the other, each for the share of the head's variance that its direction
adds (Gandelsman 2025, Eq. 2.7), and the sums are compared. What texts of all properties have
in common (that they are texts) is taken off them first: it tells no property from another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster.tasks import each
from pipeline.heads.choices import Head
from pipeline.heads.textspan import textspan
from pipeline.telling import SILENT, Teller
from storage.reductions import Reductions
from storage.store import Store

from .choices import FIRST
from .lexicon import Lexicon

# A text may be about two properties, as "a red star" is. Held against the words of the embedded
# world's pool, of which half name two, this finds 88% of what is named, and 91% of what it finds
# is; the nearest property alone would find 68%.
NEAR = 0.8


@dataclass(frozen=True, eq=False)
class Properties:
    """A lexicon's texts where a model has them.

    Attributes
    ----------
    names : tuple of str
    texts : tuple of (M, E) float64
        Of every property, less ``centre``.
    centre : (E,) float64
        The mean of the properties' means: each counts alike, however many texts it has.
    """

    names: tuple[str, ...]
    texts: tuple[NDArray[np.float64], ...]
    centre: NDArray[np.float64]

    @classmethod
    def of(cls, lexicon: Lexicon, embeddings: NDArray) -> Properties:
        """From the embeddings of ``lexicon.texts``, (M, E)."""
        ends = np.cumsum([len(texts) for texts in lexicon.properties.values()])
        parts = np.split(np.asarray(embeddings, np.float64), ends[:-1])
        centre = np.mean([part.mean(0) for part in parts], axis=0)
        return cls(lexicon.names, tuple(part - centre for part in parts), centre)

    def fitting(self, texts: NDArray) -> NDArray[np.bool_]:
        """Which properties each text is about: those with a text that is as near, or nearly.

        Parameters
        ----------
        texts : (M, E) float

        Returns
        -------
        (M, properties) bool
            The largest cosine with a text of the property is at least ``NEAR`` of the largest with
            any; nothing where no cosine is above 0.
        """
        texts = _unit(np.asarray(texts, np.float64) - self.centre)
        cosines = np.stack([(texts @ _unit(of).T).max(1) for of in self.texts], 1)
        largest = cosines.max(1, keepdims=True)
        return (cosines >= NEAR * largest) & (largest > 0)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def property_shares(
    store: Store,
    reductions: Reductions,
    heads: Sequence[Head],
    properties: Properties,
    teller: Teller = SILENT,
) -> NDArray[np.float64]:
    """Share of every head's variance that each property's first texts explain.

    Parameters
    ----------
    store : Store
    reductions : Reductions
        Of the images that the heads are judged by.
    heads : sequence of (layer, head)
    properties : Properties
    teller : Teller

    Returns
    -------
    (heads, properties) float64
        0 for a head without variance.
    """
    covariance = reductions.array("heads_covariance").values
    head_map = store.model()["head_map"].values
    moments = ((covariance[None, *at], head_map[None, *at]) for at in heads)
    found = []
    with teller.bar("heads against properties", len(heads)) as move:
        for shares in each(_shares_of_head, moments, properties.texts):
            found.append(shares)
            move(len(found))
    return np.stack(found)


def _shares_of_head(
    texts: Sequence[NDArray[np.float64]], moments: tuple[NDArray, NDArray]
) -> NDArray[np.float64]:
    spans = (textspan(*moments, of, FIRST, "explained-variance") for of in texts)
    return np.array([span.cumulative[0, -1] for span in spans])
