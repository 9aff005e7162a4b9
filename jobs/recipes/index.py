"""The recipe of ``facet index``: contributions head by head, made for search."""

from __future__ import annotations

import time

from humanize import naturalsize

from jobs.console import TELLER, console, progress_bar, say_found, show_next, show_table
from jobs.index import IndexConfig
from jobs.settings import command
from jobs.steps import opened
from pipeline.cluster import machines, pace
from pipeline.cluster.room import refuse_room
from pipeline.search.build import build, missing
from pipeline.search.choices import Space
from pipeline.telling import several
from storage import urls
from storage.layout import INDEX, index_bytes


def run(config: IndexConfig, space: Space) -> Space:
    """Build what is missing, sum up."""
    started = time.monotonic()
    store = opened(config.store)
    place = urls.join(store.url, INDEX)
    lacking = missing(store, space)
    shards = sum(len(of.shards) for of in lacking)
    if not shards:
        say_found(place)
    else:
        need = sum(index_bytes(store.meta, of.parts) for of in lacking)
        refuse_room(store.url, need, "choose fewer `layers`")
        machines.settle(
            pace.of_shards(store.meta, shards), f"{several(shards, 'shard')} to index", TELLER.say
        )
        console.print(
            f"indexing {several(len(space.parts), 'part')} of {several(shards, 'shard')}: "
            f"up to {naturalsize(need)} to write"
        )
        with progress_bar("shards", shards, "parts are kept as far as they were noted") as move:
            build(store, space, report=move)
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
    show_next(command("show", "results", store=config.store))
    return space
