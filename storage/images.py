"""The image table: Parquet parts of ``ROWS_PER_IMAGE_PART`` rows, in image order."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from . import urls
from .layout import IMAGES, ROWS_PER_IMAGE_PART

BLOCK_BYTES = 2**16

# What makes two lists the same list. Paths are left out: a data set may move.
IDENTITY = ("index", "key", "length", "label", "caption")


def part_url(url: str, part: int) -> str:
    return urls.join(url, IMAGES, f"part-{part:06d}.parquet")


def _write_part(url: str, part: int, rows: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, row_group_size=4096)
    urls.put_bytes(part_url(url, part), buffer.getvalue())


class ListDigest:
    """sha256 over the identity columns of a streamed image table, however the stream is cut."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows = 0

    def update(self, table: pa.Table) -> None:
        text = io.BytesIO()
        options = csv.WriteOptions(include_header=False, quoting_style="needed")
        csv.write_csv(table.select(IDENTITY), text, options)
        self._hash.update(text.getvalue())
        self.rows += table.num_rows

    def through(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables, counted and digested as they pass."""
        for table in tables:
            self.update(table)
            yield table

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def write_images(url: str, tables: Iterable[pa.Table]) -> None:
    """Write the image table from a stream of tables; only one part is held at a time."""
    _write_parts(url, 0, tables)


def append_images(url: str, have: int, tables: Iterable[pa.Table]) -> int:
    """Append rows to an image table of ``have`` rows; returns how many.

    Their ``index`` is set here. Only the last part is written again, whole or not at all.
    """
    first = have // ROWS_PER_IMAGE_PART
    added = 0

    def numbered() -> Iterator[pa.Table]:
        nonlocal added
        if have % ROWS_PER_IMAGE_PART:
            yield read_rows(url, first * ROWS_PER_IMAGE_PART, have)
        for table in tables:
            index = pa.array(range(have + added, have + added + table.num_rows), pa.int64())
            added += table.num_rows
            yield table.set_column(table.column_names.index("index"), "index", index)

    _write_parts(url, first, numbered())
    return added


def move_images(url: str, rows: pa.Table) -> None:
    """Write anew where images lie: they are the same images, at other places.

    Parameters
    ----------
    url : str
    rows : pyarrow.Table
        ``index``, and the columns of the image table that are to be replaced; columns that the
        table lacks are left out.
    """
    parts = rows["index"].to_numpy() // ROWS_PER_IMAGE_PART
    for part in np.unique(parts):
        first = int(part) * ROWS_PER_IMAGE_PART
        old = pq.read_table(pa.BufferReader(urls.read_bytes(part_url(url, int(part)))))
        new = rows.filter(pa.array(parts == part))
        # Each row's place in the old column with the new values behind it.
        take = np.arange(old.num_rows)
        take[new["index"].to_numpy() - first] = old.num_rows + np.arange(new.num_rows)
        for name in set(new.column_names) & set(old.column_names) - {"index"}:
            both = pa.chunked_array(
                [*old[name].chunks, *new[name].cast(old[name].type).chunks], old[name].type
            )
            at = old.column_names.index(name)
            old = old.set_column(at, name, both.take(pa.array(take)))
        _write_part(url, int(part), old)


def _write_parts(url: str, part: int, tables: Iterable[pa.Table]) -> None:
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(t.num_rows for t in held) >= ROWS_PER_IMAGE_PART:
            rows = pa.concat_tables(held, promote_options="permissive")
            _write_part(url, part, rows.slice(0, ROWS_PER_IMAGE_PART))
            held, part = [rows.slice(ROWS_PER_IMAGE_PART)], part + 1
    if sum(t.num_rows for t in held):
        _write_part(url, part, pa.concat_tables(held, promote_options="permissive"))


def read_rows(url: str, start: int, stop: int) -> pa.Table:
    """Rows ``start … stop-1`` of the image table; opens only the parts that hold them."""
    tables = []
    for part in range(start // ROWS_PER_IMAGE_PART, -(-stop // ROWS_PER_IMAGE_PART)):
        with _opened(part_url(url, part)) as file:
            tables.append(_between(file, start, stop))
    return pa.concat_tables(tables, promote_options="permissive")


def read_some(url: str, numbers: np.ndarray) -> pa.Table:
    """Rows of the image table by their numbers, in the table's order; opens only what holds them.

    Parameters
    ----------
    url : str
    numbers : (n,) int64
        At least one; each counts once.
    """
    tables = []
    wanted = np.unique(numbers)
    for part in np.unique(wanted // ROWS_PER_IMAGE_PART).tolist():
        of_part = wanted[wanted // ROWS_PER_IMAGE_PART == part]
        with _opened(part_url(url, part)) as file:
            tables.append(_among(file, of_part))
    return pa.concat_tables(tables, promote_options="permissive")


@contextmanager
def _opened(place: str) -> Iterator[pq.ParquetFile]:
    """A part of which only what is asked for is read."""
    if urls.is_local(place):
        with pq.ParquetFile(urls.absolute(place)) as part:  # faster than through a file of Python's
            yield part
        return
    fs, path = urls.filesystem(place)
    # A small block: read-ahead would fetch the rest of the part for every batch.
    with urls.naming(place, "read"), fs.open(path, "rb", block_size=BLOCK_BYTES) as file:
        yield pq.ParquetFile(file)


def _between(part: pq.ParquetFile, start: int, stop: int) -> pa.Table:
    """Rows of a part by their index, which rises."""
    rows = _groups(part, lambda first, last: first < stop and last >= start)
    first, last = np.searchsorted(rows["index"].to_numpy(), (start, stop)).tolist()
    return rows.slice(first, last - first)


def _among(part: pq.ParquetFile, numbers: np.ndarray) -> pa.Table:
    """Rows of a part by their numbers, rising."""

    def holds(first: int, last: int) -> bool:
        return bool(np.searchsorted(numbers, first) < np.searchsorted(numbers, last, "right"))

    return _groups(part, holds).filter(pc.field("index").isin(pa.array(numbers)))


def _groups(part: pq.ParquetFile, holds: Callable[[int, int], bool]) -> pa.Table:
    """Row groups that hold some rows, told from their first and last index; read in this thread, so
    that no other holds the file as Python ends."""
    kept, groups = [], part.metadata
    column = groups.schema.names.index("index")
    for at in range(groups.num_row_groups):
        known = groups.row_group(at).column(column).statistics
        if known is None or holds(known.min, known.max):
            kept.append(at)
    return part.read_row_groups(kept, use_threads=False)


def read_images(url: str) -> pa.Table:
    """The whole image table."""
    return pa.concat_tables(_read_parts(url), promote_options="permissive")


def read_keys(url: str) -> Iterator[pa.Table]:
    """``index`` and ``key`` of all images, part by part."""
    return _read_parts(url, ["index", "key"])


def read_columns(url: str, names: list[str]) -> pa.Table:
    """Some columns of the whole image table, and of its parts only these; null where a part lacks
    one."""
    tables = []
    for name in urls.list_names(urls.join(url, IMAGES)):
        if name.startswith("part-"):
            with _opened(urls.join(url, IMAGES, name)) as file:
                tables.append(file.read(names, use_threads=False))
    return pa.concat_tables(tables, promote_options="permissive")


def _read_parts(url: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    for name in urls.list_names(urls.join(url, IMAGES)):
        if name.startswith("part-"):
            # Not a file of Python's, and in this thread: one of Arrow's that lets go of a file, or
            # has hardly begun, while Python ends aborts the process.
            content = pa.BufferReader(urls.read_bytes(urls.join(url, IMAGES, name)))
            yield pq.ParquetFile(content).read(columns, use_threads=False)
