"""The recipe of ``facet encode-texts``: embeddings of a pool."""

from __future__ import annotations

import time

from jobs.console import say_found, show_next, show_table
from jobs.encode_texts import EncodeTextsConfig
from jobs.settings import command
from jobs.steps import embedded, opened
from pipeline.texts import Pool
from pipeline.texts.encoding import Encoded, TextEncoder
from storage.store import Store


def run(config: EncodeTextsConfig, pool: Pool) -> Encoded:
    """Embed the pool, say what was left out."""
    started = time.monotonic()
    store = opened(config.store)
    encoded = embedded(TextEncoder(store, config.pretrained), pool.source, pool.texts)
    if not encoded.new:
        say_found(encoded.result.url)
    show_table(
        "done",
        {
            "pool": pool.source,
            "texts": f"{len(pool.texts):,}, {encoded.embeddings.shape[1]} numbers each",
            "left out": f"{pool.duplicates:,} duplicates, {pool.blank:,} blank",
            "cut off": f"{encoded.too_long:,} longer than the model reads",
            "activation": f"{store.meta.activation}, as in the image tower",
            "this run": f"{time.monotonic() - started:.0f} s",
            "kept in": encoded.result.url,
        },
    )
    show_next(next_command(config, store))
    return encoded


def next_command(config: EncodeTextsConfig, store: Store) -> str:
    """What the embeddings are for."""
    return command(
        "textspan",
        store=config.store,
        pool=config.pool,
        layers=None if store.meta.layers >= 4 else "all",
        pretrained=config.pretrained,
    )
