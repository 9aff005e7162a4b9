"""Which images of one store are in another, too: by their keys, whatever their order and shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage import ledger
from storage.errors import FacetError
from storage.images import read_keys
from storage.store import Store

# Parts that images fall into by their keys, of so many: those that no map ever sees, and those by
# which its strength is chosen; the rest make it.
PARTS, HELD_OUT, CHOOSING = 5, 0, 1


@dataclass(frozen=True, eq=False)
class Common:
    """Where the images of one list stand in another.

    Attributes
    ----------
    rows : (images of `to`,) int64
        Each one's row in `from`, -1 where it is not there.
    same_list : bool
        Whether both lists are one, by their digests.
    only_from, only_to : int
        Images that the other list lacks.
    """

    rows: NDArray[np.int64]
    same_list: bool
    only_from: int
    only_to: int


def common_images(source: Store, target: Store) -> Common:
    """Match the images of `to` with those of `from`; the keys of both lists are held.

    Raises
    ------
    FacetError
        If no image is in both lists.
    """
    if source.meta.image_list_digest == target.meta.image_list_digest:
        return Common(np.arange(target.meta.images), True, 0, 0)
    there, here = (_keys(store.data) for store in (source, target))
    rows = np.asarray(pc.fill_null(pc.index_in(here, value_set=there), -1)).astype(np.int64)
    matched = int((rows >= 0).sum())
    if not matched:
        raise FacetError(
            f"`from` {source.url} and `to` {target.url} have no image in common: their keys are "
            f"such as {there[0].as_py()!r} and {here[0].as_py()!r}. Extract both over one list of "
            "images"
        )
    return Common(rows, False, len(there) - matched, len(here) - matched)


def _keys(url: str) -> pa.Array:
    keys = pa.concat_tables(read_keys(url)).sort_by("index")["key"]
    return keys.cast(pa.large_string()).combine_chunks()


def ok_rows(store: Store, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows of a store stand in a finished shard and are ok; -1 is none."""
    found, done = np.zeros(len(rows), bool), store.done_shards()
    shards = np.where(rows >= 0, rows // store.meta.shard_size, -1)
    for shard in set(np.unique(shards).tolist()) & done:
        at = shards == shard
        ok = np.asarray(ledger.read_part(store.data, shard)["ok"])
        found[at] = ok[rows[at] - store.meta.rows(shard)[0]]
    return found


def part_of(keys: Iterable[str]) -> NDArray[np.int64]:
    """The part that each image falls into: a hash of its key, the same in every run and store."""
    hashed = (hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    return np.array([int.from_bytes(h) % PARTS for h in hashed], np.int64)
