"""The recipe of ``facet index``: contributions head by head, made for search."""

from __future__ import annotations

import time

from humanize import naturalsize

from jobs.console import say_found, show_next, show_table
from jobs.index import IndexConfig
from jobs.settings import ELIDED, command
from jobs.steps import indexed, opened
from pipeline.search.choices import Space
from storage import urls
from storage.layout import INDEX, index_bytes


def run(config: IndexConfig, space: Space) -> Space:
    """Build what is missing, sum up."""
    started = time.monotonic()
    store = opened(config.store)
    place = urls.join(store.url, INDEX)
    if not indexed(store, space, "choose fewer `layers`"):
        say_found(place)
    unfinished = store.meta.shards - len(store.done_shards())
    show_table(
        "done",
        {
            "parts": f"{len(space.parts):,}",
            "images": f"{store.meta.images:,}",
            "shards": f"{store.meta.shards - unfinished:,} finished"
            + (f", {unfinished:,} not extracted yet and not indexed" if unfinished else ""),
            "bytes": naturalsize(index_bytes(store.meta, space.parts)),
            "this run": f"{time.monotonic() - started:.0f} s",
            "kept in": place,
        },
    )
    show_next(command("search", store=config.store, text=ELIDED))
    return space
