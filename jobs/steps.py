"""What several jobs make first where it is missing, with a bar: moments, embeddings of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from humanize import naturalsize

from jobs.console import TELLER, console, progress_bar
from pipeline.cluster import machines, pace
from pipeline.cluster.room import refuse_room
from pipeline.search import build
from pipeline.search.choices import Space
from pipeline.stats.reductions import check, missing_shards, reduce_store
from pipeline.telling import several
from storage import open_store
from storage.growth import follow
from storage.layout import index_bytes
from storage.reductions import Reductions, state_bytes, table
from storage.store import Mode, Store

if TYPE_CHECKING:
    from pipeline.texts.encoding import Encoded, TextEncoder


def opened(url: str, mode: Mode = "r") -> Store:
    """A store to work with; if it is a view, it first follows its store."""
    store = open_store(url, mode)
    follow(store)
    return store


def reduced(store: Store, where: str | None, components: tuple[str, ...]) -> Reductions:
    """A subset's reductions, brought up to date."""
    check(store, where, components)
    missing = missing_shards(store, where, components)
    if not missing:
        return reduce_store(store, where, components)
    state = state_bytes(table(store.meta, components), store.meta)
    # Principal components are kept beside what they are of.
    refuse_room(store.url, 2 * state, "choose fewer `components`")
    seconds = pace.of_shards(store.meta, missing)
    machines.settle(seconds, f"{several(missing, 'shard')} to reduce", TELLER.say)
    console.print(
        f"reducing {', '.join(components)} of {several(missing, 'shard')}; one state takes "
        f"{naturalsize(state)}"
    )
    with progress_bar("shards", missing, "sums of finished waves are kept") as move:
        return reduce_store(store, where, components, report=move)


def indexed(store: Store, space: Space, fewer: str = "choose fewer `heads`") -> int:
    """The index of a space, brought up to date; returns how many shards it lacked.

    ``fewer`` is what would take less room.
    """
    lacking = build.missing(store, space)
    shards = sum(len(of.shards) for of in lacking)
    if not shards:
        return 0
    need = sum(index_bytes(store.meta, of.parts) for of in lacking)
    refuse_room(store.url, need, fewer)
    seconds = pace.of_shards(store.meta, shards)
    machines.settle(seconds, f"{several(shards, 'shard')} to index", TELLER.say)
    parts = {part for of in lacking for part in of.parts}
    console.print(
        f"indexing {several(len(parts), 'part')} of {several(shards, 'shard')}: up to "
        f"{naturalsize(need)} to write"
    )
    with progress_bar("shards", shards, "parts are kept as far as they were noted") as move:
        build.build(store, space, report=move)
    return shards


def embedded(encoder: TextEncoder, source: str, texts: Sequence[str]) -> Encoded:
    """Embeddings of texts, read back or made; says so where the model did not read all of them."""
    found = encoder.encode(source, texts, TELLER)
    if found.too_long:
        TELLER.say(
            f"{source}: {several(found.too_long, 'text')} longer than the model reads, and cut off"
        )
    return found
