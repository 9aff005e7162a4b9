"""What a source lists beyond the images that a store has.

A store keeps its images in the order in which it met them, so that finished shards stay as they
are: images that the source has gained, wherever they sort, come after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from storage.growth import grow, short_shard
from storage.images import read_rows
from storage.layout import ROWS_PER_IMAGE_PART
from storage.store import Store

from .reductions import carry_over, forget_shard


class KnownImages:
    """The images of a store, 16 bytes each, to compare a listing with.

    Attributes
    ----------
    missing : int
        Images of the store that the listing has not shown yet.
    changed : list of str
        Keys whose length, label or caption is not what the store has.
    """

    def __init__(self, store: Store) -> None:
        images = store.meta.images
        hashes = np.empty((images, 2), np.uint64)
        for start in range(0, images, ROWS_PER_IMAGE_PART):
            stop = min(start + ROWS_PER_IMAGE_PART, images)
            hashes[start:stop] = _hashes(read_rows(store.url, start, stop))
        order = np.argsort(hashes[:, 0])
        self._keys, self._rows = hashes[order].T
        self.missing = images
        self.changed: list[str] = []

    def new(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The rows of a listing that the store lacks; afterwards ``missing`` and ``changed`` hold.

        Every image of the store is taken to be listed once, as keys are unique.
        """
        for table in tables:
            keys, rows = _hashes(table).T
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            known = self._keys[at] == keys
            self.missing -= int(known.sum())
            changed = known & (self._rows[at] != rows)
            self.changed += table["key"].filter(pa.array(changed)).to_pylist()
            if not known.all():
                yield table.filter(pa.array(~known))


def _hashes(table: pa.Table) -> np.ndarray:
    """64-bit hashes of each row's key and of all that identifies it, (rows, 2)."""
    frame = pd.DataFrame(
        {
            "key": table["key"].to_pandas().astype(object),
            "length": table["length"].fill_null(-1).to_numpy().astype(np.int64),
            "label": table["label"].cast(pa.string()).fill_null("\0").to_pandas().astype(object),
            "caption": table["caption"]
            .cast(pa.string())
            .fill_null("\0")
            .to_pandas()
            .astype(object),
        }
    )
    columns = [
        pd.util.hash_pandas_object(part, index=False).to_numpy() for part in (frame["key"], frame)
    ]
    return np.stack(columns, axis=1)


def append(store: Store, tables: Iterable[pa.Table]) -> Store:
    """Append images to a store and keep its reductions right.

    The last shard, where it was short, is done again with its new images: reductions forget it,
    and count it anew like any other new shard.
    """
    shard = short_shard(store.meta)
    if shard is not None:
        forget_shard(store, shard)
    grown = grow(store, tables)
    carry_over(grown, store.meta)
    return grown
