"""What a source lists beyond the images that a store has.

A store keeps its images in the order in which it met them, so that finished shards stay as they
are: images that the source has gained, wherever they sort, come after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.images.rows import FIXED, ROW_ORIGIN
from pipeline.stats.reductions import carry_over, forget_shard
from storage.growth import grow, short_shard
from storage.images import read_rows
from storage.layout import ROWS_PER_IMAGE_PART
from storage.store import Store

# What a row of the image table says of an image, and where it lies.
SAID, PLACE, ORIGIN = 0, 1, 2
PLACES = pa.schema(
    [
        ("index", pa.int64()),
        *(FIXED.field(name) for name in ("key", "uri", "offset", "length")),
        (ROW_ORIGIN, pa.string()),
    ]
)


class KnownImages:
    """The images of a store, to compare a listing with.

    As long as the listing goes on in the store's own order, only the rows compared are held;
    from the first row that stands elsewhere, 28 bytes of every image.

    Parameters
    ----------
    url : str
        Where the image table is.
    images : int
        How many rows it has.
    sample : sequence of int
        Images whose listed rows are to be kept.

    Attributes
    ----------
    missing : int
        Images of the store that the listing has not shown yet.
    changed : list of str
        Keys whose length, label or caption is not what the store has.
    sampled : list of pyarrow.Table
        The rows of the sample, as listed, with the store's ``index``.
    moved : list of pyarrow.Table
        Rows whose file or place in it is not what the store has.
    remade : list of pyarrow.Table
        Those of them that only their file tells apart, which has changed.
    """

    def __init__(self, url: str, images: int, sample: Sequence[int] | NDArray = ()) -> None:
        self._url, self._images = url, images
        self._sample = np.asarray(sample, np.int64)
        self._next = 0  # where the store's own order goes on
        self._part, self._part_rows = -1, pa.table({})
        self._index: tuple[NDArray, NDArray, NDArray] | None = None
        self.missing = images
        self.changed: list[str] = []
        self.sampled: list[pa.Table] = []
        self.moved: list[pa.Table] = []
        self.remade: list[pa.Table] = []

    def new(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The rows of a listing that the store lacks; afterwards the attributes hold.

        Every image of the store is taken to be listed once, as keys are unique.
        """
        for table in tables:
            keys, facts = _hashes(table)
            at, kept = self._find(table["key"], keys)
            known = at >= 0
            self.missing -= int(known.sum())
            differs = (facts != kept) & known[:, None]
            # What only its file tells apart, where both say which file that was.
            remade = differs[:, ORIGIN] & (facts[:, ORIGIN] != 0) & (kept[:, ORIGIN] != 0)
            self.changed += table["key"].filter(pa.array(differs[:, SAID])).to_pylist()
            listed = _placed(table, at)
            for rows, chosen in (
                (self.sampled, np.isin(at, self._sample)),
                (self.moved, differs[:, PLACE] | remade),
                (self.remade, remade),
            ):
                if chosen.any():
                    rows.append(listed.filter(pa.array(chosen)))
            if not known.all():
                yield table.filter(pa.array(~known))

    def _find(self, keys: pa.ChunkedArray, hashes: NDArray) -> tuple[NDArray, NDArray]:
        """The store's index of each listed row (-1: none), and what the store says of it."""
        stop = self._next + len(keys)
        if self._index is None and stop <= self._images:
            here = self._rows(self._next, stop)
            if here["key"].equals(keys):
                at, self._next = np.arange(self._next, stop), stop
                return at, _hashes(here)[1]
        if self._index is None:
            self._index = self._all()
        order, sorted_keys, facts = self._index
        place = np.minimum(np.searchsorted(sorted_keys, hashes), len(order) - 1)
        at = np.where(sorted_keys[place] == hashes, order[place], -1)
        return at, facts[at]

    def _all(self) -> tuple[NDArray, NDArray, NDArray]:
        keys = np.empty(self._images, np.uint64)
        facts = np.empty((self._images, 3), np.uint32)
        for start in range(0, self._images, ROWS_PER_IMAGE_PART):
            stop = min(start + ROWS_PER_IMAGE_PART, self._images)
            keys[start:stop], facts[start:stop] = _hashes(self._rows(start, stop))
        order = np.argsort(keys)
        return order, keys[order], facts

    def _rows(self, start: int, stop: int) -> pa.Table:
        """Rows of the store; the part read last is kept."""
        tables = []
        for part in range(start // ROWS_PER_IMAGE_PART, -(-stop // ROWS_PER_IMAGE_PART)):
            first = part * ROWS_PER_IMAGE_PART
            if part != self._part:
                last = min(first + ROWS_PER_IMAGE_PART, self._images)
                self._part, self._part_rows = part, read_rows(self._url, first, last)
            at = max(start - first, 0)
            tables.append(self._part_rows.slice(at, stop - first - at))
        return pa.concat_tables(tables, promote_options="permissive")


def _hashes(table: pa.Table) -> tuple[NDArray, NDArray]:
    """Hashes of each row's key, (rows,), and of what it says, its place and origin, (rows, 3)."""

    def text(name: str) -> pd.Series:
        column = table[name] if name in table.column_names else pa.nulls(len(table), pa.string())
        return column.cast(pa.string()).fill_null("\0").to_pandas().astype(object)

    def whole(name: str) -> NDArray[np.int64]:
        return table[name].fill_null(-1).to_numpy().astype(np.int64)

    parts: dict[int, dict[str, Any]] = {
        SAID: {"length": whole("length"), "label": text("label"), "caption": text("caption")},
        PLACE: {"uri": text("uri"), "offset": whole("offset")},
        ORIGIN: {"origin": text(ROW_ORIGIN)},
    }
    facts = np.empty((len(table), len(parts)), np.uint32)
    for column, part in parts.items():
        hashes = pd.util.hash_pandas_object(pd.DataFrame(part), index=False).to_numpy()
        facts[:, column] = np.maximum(hashes >> np.uint64(32), 1)
    facts[(parts[ORIGIN]["origin"] == "\0").to_numpy(), ORIGIN] = 0  # it has none
    return pd.util.hash_pandas_object(text("key"), index=False).to_numpy(), facts


def _placed(table: pa.Table, at: NDArray[np.int64]) -> pa.Table:
    """Where listed rows lie, by the store's own index."""
    if ROW_ORIGIN not in table.column_names:
        table = table.append_column(ROW_ORIGIN, pa.nulls(len(table), pa.string()))
    at_column = table.column_names.index("index")
    table = table.set_column(at_column, "index", pa.array(at, pa.int64()))
    return table.select(PLACES.names).cast(PLACES)


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
