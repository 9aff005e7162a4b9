"""Which shards have been held to masks, beside what will be the result until it is there."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pipeline.provenance import revision
from storage import urls

# Of the result: figures of pictures, a part a shard. Beside them, until all are there: what became
# of a shard, written last.
PICTURES, DONE = "pictures", "parts"


def pictures_url(place: str, shard: int) -> str:
    """Where the figures of a shard's pictures are; ``place`` is the result's."""
    return urls.join(place, PICTURES, f"part-{shard:08d}.parquet")


def note_done(place: str, shard: int, facts: dict[str, Any]) -> None:
    """Say that a shard is done: a shard is if and only if that has been said, by this very code.

    Parameters
    ----------
    place : str
        Where the result will be, which is told by all that decides it.
    shard : int
    facts : dict
        JSON-able: what became of it.
    """
    said = json.dumps({**facts, "revision": revision()})
    urls.put_bytes(urls.join(place, DONE, _name(shard)), said.encode())


def done_shards(place: str, wanted: Collection[int]) -> dict[int, dict[str, Any]]:
    """Those of some shards that are done, and what became of them."""
    there = set(urls.list_names(urls.join(place, DONE)))
    shards = [shard for shard in wanted if _name(shard) in there]
    if not shards:
        return {}
    read = urls.read_each([urls.join(place, DONE, _name(shard)) for shard in shards])
    facts = {at: json.loads(said) for at, said in zip(shards, read, strict=True) if said}
    now = revision()
    return {at: said for at, said in facts.items() if said.pop("revision") == now}


def forget_done(place: str) -> None:
    """Once the result is there."""
    urls.remove(urls.join(place, DONE))


def _name(shard: int) -> str:
    return f"part-{shard:08d}.json"
