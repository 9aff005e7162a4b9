"""Parquet files that hold images, or paths and URLs of images.

Rows carry ``uri = <file>#<column>`` and ``offset`` = row number, ``length`` null: listing
does not read image bytes. Keys are ``<file stem>/<key column, or row number>``; where it is the
row number, ``row_origin`` says what the row is of. Paths are
relative to the Parquet file's folder unless they are absolute or URLs.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .addresses import presentable
from .columns import is_bytes, is_text, plain
from .errors import BadImage, SourceError
from .files import open_file, read_ranges
from .rows import FIXED, RESERVED, ROW_ORIGIN, ListingReport, Piece, as_column, as_text, clean

IMAGE_COLUMNS = (
    "image", "bytes", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "content",
    "path", "image_path", "file", "file_name", "filepath", "uri", "image_url", "url",
)  # fmt: skip
LABEL_COLUMNS = ("label", "cls", "class")
CAPTION_COLUMNS = ("caption", "text", "txt")
BATCH_ROWS = 32  # images decoded from Parquet at once
# Of a file whose rows have no keys; in all, small files are taken whole.
SAMPLES, SAMPLE_BYTES = 16, 16_384


def parquet_piece(url: str) -> Piece:
    """A Parquet file is one piece."""
    stem = url.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return Piece("parquet", url, f"{stem}/")


def list_parquet(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """Rows in the order of the file; every column but the images' bytes is kept."""
    report = ListingReport()
    with _opened(piece.url) as (parquet, file, size):
        image, kept = _columns(piece.url, parquet.schema_arrow, report)
        table = parquet.read(columns=kept)
        version = _version(piece.url, file, size)
        n = parquet.metadata.num_rows
    columns = {name: _readable(table[name]) for name in kept}
    origin = pa.array([version] * n)
    if image in columns and pa.types.is_string(columns[image].type):
        written = columns[image]
        columns[image] = presentable(written)
        # What is not kept as it was written does not tell rows apart.
        whole = pc.fill_null(pc.equal(written, columns[image]), False)
        origin = pc.if_else(whole, written, origin)
    report.images += n
    key = columns.pop("key", None)
    names = pc.cast(key, pa.string()).to_pylist() if key is not None else [None] * n
    keys = [piece.space + (f"{i:08d}" if k is None else k) for i, k in enumerate(names)]
    fixed = [
        pa.array(keys, pa.string()),
        pa.array([f"{piece.url}#{image}"] * n, pa.string()),
        pa.array(range(n), pa.int64()),
        pa.nulls(n, pa.int64()),
        _take_text(columns, LABEL_COLUMNS, n),
        _take_text(columns, CAPTION_COLUMNS, n),
    ]
    result = pa.table(fixed, schema=FIXED)
    if None in names:
        keyless = pa.array([k is None for k in names])
        result = result.append_column(ROW_ORIGIN, pc.if_else(keyless, origin, None))
    for name, values in columns.items():
        name = clean(name)
        while name in RESERVED or name in result.column_names:
            name = f"meta_{name}"
        result = result.append_column(name, values)
    return result, report


def refuse_columns(url: str) -> None:
    """Refuse a Parquet file without a column of images; no row is read."""
    with _opened(url) as (parquet, _, _):
        _columns(url, parquet.schema_arrow, ListingReport())


@contextmanager
def _opened(url: str) -> Iterator[tuple[pq.ParquetFile, IO[bytes], int]]:
    """A file, as Parquet and as bytes, and its size."""
    try:
        file, size = open_file(url)
    except (BadImage, FileNotFoundError, PermissionError) as error:
        raise SourceError(f"{url} cannot be read: {error}") from error
    with file:
        try:
            yield pq.ParquetFile(file), file, size
        except pa.ArrowInvalid as error:
            raise SourceError(
                f"{url} is not a Parquet file, or is cut: {error}. Remove it, or leave it out."
            ) from error


def _version(url: str, file: IO[bytes], size: int) -> str:
    """What tells the file from what it was: its size, and sha256 over footer and samples.

    The footer alone says nothing of the order of images in a row group.
    """
    file.seek(size - 8)  # the footer's length and four letters end the file
    footer = int.from_bytes(file.read(4), "little")
    file.seek(size - 8 - footer)
    digest = hashlib.sha256(file.read(footer))
    last = max(0, size - SAMPLE_BYTES)
    starts = [last * i // (SAMPLES - 1) for i in range(SAMPLES)]
    for data in read_ranges(url, [(start, min(start + SAMPLE_BYTES, size)) for start in starts]):
        digest.update(data)
    return f"{size}-{digest.hexdigest()[:16]}"


def _columns(url: str, schema: pa.Schema, report: ListingReport) -> tuple[str, list[str]]:
    """The image column and the columns to keep."""
    twice = sorted(name for name, n in Counter(schema.names).items() if n > 1)
    if twice:
        raise SourceError(f"{url} has several columns called {twice[0]!r}: give each its own name.")
    image = _image_column(url, schema)
    kept = []
    for column in schema:
        if not _holds_bytes(column.type):
            kept.append(column.name)
        elif column.name != image:
            report.add("column of bytes, not kept", f"{url}: {column.name}")
    return image, kept


def _image_column(url: str, schema: pa.Schema) -> str:
    """The first of ``IMAGE_COLUMNS`` that holds bytes; where none does, that holds names."""
    by_name = {name.lower(): name for name in reversed(schema.names)}
    present = [by_name[wanted] for wanted in IMAGE_COLUMNS if wanted in by_name]
    for holds, field in ((is_bytes, "bytes"), (is_text, "path")):
        for name in present:
            kind = schema.field(name).type
            if holds(_field_type(kind, field) or kind):
                return name
    columns = ", ".join(f"{f.name} ({f.type})" for f in schema)
    raise SourceError(
        f"{url} has no image column. Its columns: {columns}. Images are looked for as bytes or "
        f"paths in: {', '.join(IMAGE_COLUMNS)}. Rename yours to one of these."
    )


def _field_type(kind: pa.DataType, name: str) -> pa.DataType | None:
    """The type of a struct's field: Hugging Face's datasets write {bytes, path}."""
    if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
        return None
    return kind.field(name).type


def _holds_bytes(kind: pa.DataType) -> bool:
    return is_bytes(kind) or _field_type(kind, "bytes") is not None


def _readable(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A column of a type that every reader and ``rows.unify`` knows."""
    column = plain(column)
    if pa.types.is_uint64(column.type):
        return as_column(column.to_pylist())
    if pa.types.is_nested(column.type):
        return pa.array([as_text(v) for v in column.to_pylist()], pa.string())
    return column


def _take_text(columns: dict[str, Any], names: tuple[str, ...], n: int) -> Any:
    """The first of ``names`` among ``columns``, as text, taken out of them; else nulls."""
    by_name = {name.lower(): name for name in reversed(columns)}
    for wanted in names:
        if wanted in by_name:
            return pc.cast(columns.pop(by_name[wanted]), pa.string())
    return pa.nulls(n, pa.string())


class ImageColumn:
    """Values of one Parquet file's image column, quick where rows are asked for in order.

    Holds ``BATCH_ROWS`` values at a time, whatever the size of the row groups.
    """

    def __init__(self, url: str, column: str) -> None:
        self._file: IO[bytes]
        self._file, _ = open_file(url)
        self._parquet = pq.ParquetFile(self._file)
        self._column = column
        meta = self._parquet.metadata
        sizes = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        self._first = list(itertools.accumulate(sizes, initial=0))  # row of each group
        self._group = -1
        self._start = 0  # row of the batch held
        self._values: Any = []

    def value(self, row: int) -> Any:
        """Bytes, text, a struct as a dict, or None."""
        if not 0 <= row < self._first[-1]:
            raise BadImage("no such row", f"row {row}, the file has {self._first[-1]} rows")
        group = bisect.bisect_right(self._first, row) - 1
        if group != self._group or row < self._start:
            self._group, self._start, self._values = group, self._first[group], []
            self._batches = self._parquet.iter_batches(
                BATCH_ROWS, row_groups=[group], columns=[self._column]
            )
        while row >= self._start + len(self._values):
            self._start += len(self._values)
            self._values = next(self._batches).column(0)
        return self._values[row - self._start].as_py()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
