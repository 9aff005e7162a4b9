"""Texts as directions of the joint space: kept ones first, the model for those that are new."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Library, Opened
from storage.errors import FacetError
from storage.results import Result, finished_results

if TYPE_CHECKING:
    from pipeline.explorer.model import Loaded
    from pipeline.texts.embedding import Tokenizer

# As results of embedded texts are called.
JOB = "encode_texts"
# Of one text, and at once.
LETTERS, TEXTS = 300, 64


def tidied(texts: Sequence[str]) -> tuple[str, ...]:
    """Texts that were typed, without needless spaces; empty ones are left out, and each is there
    once.

    Raises
    ------
    FacetError
        If there are too many, or one is too long.
    """
    found = tuple(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))
    if len(found) > TEXTS:
        raise FacetError(f"{len(found)} texts: give {TEXTS} at most")
    if long := next((text for text in found if len(text) > LETTERS), None):
        raise FacetError(
            f"the text {long[:60] + ' …'!r} has {len(long)} letters: give {LETTERS} at most"
        )
    return found


def directions(library: Library, opened: Opened, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit embeddings of texts by a store's model, (M, E) float32.

    Texts that any finished result of the store's model keeps are taken from there, as
    ``TextEncoder`` does; nothing new is kept but in memory.

    Raises
    ------
    NotYet
        If the model is needed, and is still being loaded.
    FacetError
        If a text is longer than the model reads.
    """
    kept = opened.cached("kept texts", partial(_kept, opened))
    lacking = tuple(text for text in texts if text not in kept)
    rows = {text: _rows(opened, kept[text][0])[kept[text][1]] for text in texts if text in kept}
    if lacking:
        new = opened.cached(
            ("embedded", lacking), lambda: library.model.ask(opened, embed, lacking)
        )
        rows |= dict(zip(lacking, new, strict=True))
    return np.stack([rows[text] for text in texts])


def _kept(opened: Opened) -> dict[str, tuple[Result, int]]:
    """Where each text is kept: a result of the store's model, and the row."""
    store = opened.store
    found: dict[str, tuple[Result, int]] = {}
    for url in dict.fromkeys((store.data, store.url)):
        for result in finished_results(url, JOB):
            if result.config.get("weights_digest") == store.meta.weights_digest:
                for row, text in enumerate(result.table("texts")["text"].to_pylist()):
                    found.setdefault(text, (result, row))
    return found


def _rows(opened: Opened, result: Result) -> NDArray[np.float32]:
    def read() -> NDArray[np.float32]:
        return result.arrays("embeddings")["embedding"].values

    return opened.cached(("embeddings", result.url), read)


def in_heads(here: Opened, text_e: NDArray[np.floating]) -> NDArray[np.float64]:
    """A text in the coordinates of every head, (layer, head, head_dim): head_map·text.

    What a head wrote along the text is its product with that. Layer by layer, as the maps of large
    models are larger than what is kept.
    """
    wide_e = np.asarray(text_e, np.float64)

    def read(layer: int) -> NDArray[np.floating]:
        return here.store.model()["head_map"].isel(layer=layer).values

    maps = (here.cached(("head map", at), partial(read, at)) for at in range(here.meta.layers))
    return np.stack([map_hke @ wide_e for map_hke in maps])


# -- in the model's process ----------------------------------------------------------------


def embed(loaded: Loaded, texts: tuple[str, ...]) -> NDArray[np.float32]:
    """Unit embeddings, (M, E) float32.

    Raises
    ------
    FacetError
        If a text is longer than the model reads.
    """
    from pipeline.texts.embedding import encode_texts
    from pipeline.texts.encoding import context_length, refuse_long

    tokenizer = tokenizer_for(loaded)
    refuse_long(context_length(loaded.model), tokenizer, texts)
    return encode_texts(loaded.model.module, tokenizer, texts)


@lru_cache(maxsize=8)
def tokenizer_for(loaded: Loaded) -> Tokenizer:
    """The model's tokenizer, made once: making it takes longer than a text."""
    from pipeline.texts.encoding import tokenizer_of
    from pipeline.texts.towers import refuse_without_texts

    refuse_without_texts(loaded.model, loaded.store.url)
    return tokenizer_of(loaded.model)
