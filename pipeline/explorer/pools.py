"""The texts that heads were described with, and where the store's model has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Opened
from storage.results import Result


@dataclass(frozen=True, eq=False)
class PoolTexts:
    """A pool.

    Attributes
    ----------
    source : str
        What it is called.
    texts : tuple of str
    embeddings : (M, E) float64
        Unit rows.
    """

    source: str
    texts: tuple[str, ...]
    embeddings: NDArray[np.float64]


def pool_of(here: Opened, result: Result) -> PoolTexts | None:
    """The pool that a result was found with; None where its embeddings are not kept."""
    # Results name another by where it stood: a store that was moved has it under the same name.
    name = str(result.provenance.get("texts") or "").rpartition("/")[2]
    kept = next((r for r in here.results("encode_texts") if r.name == name), None)
    if kept is None:
        return None

    def read() -> PoolTexts:
        texts = tuple(kept.table("texts")["text"].to_pylist())
        rows = kept.arrays("embeddings")["embedding"].values.astype(np.float64)
        return PoolTexts(str(kept.provenance["source"]), texts, rows)

    found: PoolTexts = here.cached(("pool", name), read)
    return found
