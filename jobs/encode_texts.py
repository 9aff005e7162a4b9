"""Embed a pool of candidate texts with the model that a store was made with.

facet encode-texts --store out/ --pool general
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import tyro

from jobs.console import run_job, say_found, show_next, show_table
from jobs.settings import command
from jobs.steps import embedded
from pipeline.texts import load_pool
from pipeline.texts.encoding import Encoded, TextEncoder
from storage import open_store
from storage.store import Store


@dataclass(frozen=True)
class EncodeTextsConfig:
    """Embed a pool of candidate texts with the model that a store was made with."""

    store: str
    """The store: a local path or an object-store URL."""
    pool: str
    """A text file (one a line), a Parquet file, or general, imagenet-classes, common-words:N,
    microworld."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""


def main(config: EncodeTextsConfig) -> Encoded:
    """Read the pool, embed it, say what was left out."""
    started = time.monotonic()
    pool = load_pool(config.pool)
    store = open_store(config.store)
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


if __name__ == "__main__":
    run_job(main, tyro.cli(EncodeTextsConfig, description=__doc__))
