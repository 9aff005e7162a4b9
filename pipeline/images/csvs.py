"""Tables of image files as CSV: names of files, and whatever else is known of them.

A name is a path relative to the table's folder, an absolute one or an address; it is the image's
key, unless the table has a column ``key``. Every column is kept.

``waterbirds:FOLDER`` names the folder of WILDS' Waterbirds (Sagawa et al., ICLR 2020; Koh et al.,
ICML 2021), whose ``metadata.csv`` has numbers where there are names: ``y`` 0 is a landbird and 1 a
waterbird, ``place`` 0 is land and 1 water, ``split`` 0 is train, 1 val and 2 test. The label is the
bird, ``split`` and ``place`` become names, and ``group`` is ``waterbird/land``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from storage.urls import absolute

from .addresses import address_in, presentable
from .columns import is_text
from .errors import BadImage, SourceError
from .files import inside, kind_of, open_file
from .parquet import CAPTION_COLUMNS, IMAGE_COLUMNS, LABEL_COLUMNS
from .rows import FIXED, RESERVED, ListingReport, Piece, clean

PREFIX = "waterbirds:"
METADATA = "metadata.csv"
FILE_COLUMNS = ("img_filename", "filename", *IMAGE_COLUMNS)
# What the numbers of WILDS' columns stand for.
BIRDS = {"y": ("landbird", "waterbird")}
MEANS = BIRDS | {"place": ("land", "water"), "split": ("train", "val", "test")}

# Only what is empty is unknown: NA and null may be names.
CONVERT = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)


def csv_piece(url: str) -> Piece:
    """A table is one piece."""
    return Piece("csv", url, f"{url}/", url.rpartition("/")[0])


def waterbirds_pieces(source: str) -> list[Piece]:
    """The table of a folder of WILDS' layout.

    Raises
    ------
    SourceError
        If it is not there, or lacks a column.
    """
    folder = source.removeprefix(PREFIX)
    if not folder.strip():
        raise SourceError(f"{source}: name the folder, as in {PREFIX}waterbirds_v1.0")
    root = absolute(folder).rstrip("/")
    url = inside(root, METADATA)
    if kind_of(url) != "file":
        raise SourceError(f"{source}: {root} has no {METADATA}, which says what its images are")
    names = _schema(url).names
    if lacking := [name for name in ("img_filename", *MEANS) if name not in names]:
        raise SourceError(
            f"{url} has no column {', '.join(lacking)}: WILDS' has img_filename, y, split and "
            f"place. Name any other table by its file, as in photos/{METADATA}"
        )
    return [Piece("waterbirds", url, "", root)]


def refuse_table(url: str) -> None:
    """Refuse a table without a column of file names; only its beginning is read."""
    _file_column(url, _schema(url))


def _schema(url: str) -> pa.Schema:
    with _opened(url) as file:
        return csv.open_csv(
            file, parse_options=_parse(lambda row: "skip"), convert_options=CONVERT
        ).schema


def list_csv(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """Rows in the order of the table; no image is looked at."""
    report = ListingReport()
    return _listed(piece, _read(piece.url, report), report), report


def list_waterbirds(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """The same, with names in place of WILDS' numbers; rows of other numbers are left out."""
    report = ListingReport()
    table = _read(piece.url, report)
    table = table.drop_columns([n for n in ("label", "group") if n in table.column_names])
    known = pa.array([True] * len(table))
    for name, of in MEANS.items():
        meant = pc.index_in(pc.cast(table[name], pa.string()), pa.array(map(str, range(len(of)))))
        for row in pc.indices_nonzero(pc.and_(known, pc.is_null(meant))).to_pylist():
            report.add(f"{name} is none of 0-{len(of) - 1}", f"row {row}: {table[name][row]}")
        known = pc.and_(known, pc.is_valid(meant))
        said = pc.take(pa.array(of), meant)
        if name in BIRDS:
            table = table.append_column("label", said)
        else:
            table = table.set_column(table.column_names.index(name), name, said)
    table = table.filter(known)
    group = pc.binary_join_element_wise(table["label"], table["place"], "/")
    return _listed(piece, table.append_column("group", group), report), report


def _listed(piece: Piece, table: pa.Table, report: ListingReport) -> pa.Table:
    column = _file_column(piece.url, table.schema)
    names = presentable(pc.cast(table[column], pa.string()))
    table = table.set_column(table.column_names.index(column), column, names)
    uris = []
    for row, name in enumerate(names.to_pylist()):
        try:
            uris.append(address_in(name, piece.root) if name and name.strip() else None)
        except BadImage as error:
            report.add("a name that is no path", f"row {row}: {error}")
            uris.append(None)
        else:
            if uris[-1] is None:
                report.add("a row without a file's name", f"row {row} of {piece.url}")
    uri = pa.array(uris, pa.string())
    table, uri = table.filter(pc.is_valid(uri)), uri.drop_null()
    report.images += len(table)
    columns = {name: table[name] for name in table.column_names}
    keys = table[column]
    if "key" in columns:
        keys = pc.coalesce(pc.cast(columns.pop("key"), pa.string()), keys)
    fixed = [
        keys,
        uri,
        pa.nulls(len(table), pa.int64()),
        pa.nulls(len(table), pa.int64()),
        _text(columns, LABEL_COLUMNS, len(table)),
        _text(columns, CAPTION_COLUMNS, len(table)),
    ]
    result = pa.table(fixed, schema=FIXED)
    for name, values in columns.items():
        name = clean(name)
        while name in RESERVED or name in result.column_names:
            name = f"meta_{name}"
        result = result.append_column(name, values)
    return result


def _text(columns: dict[str, pa.ChunkedArray], names: tuple[str, ...], n: int) -> pa.Array:
    """The first of ``names`` among the columns, as text, taken out of them; else nulls."""
    for name in names:
        if name in columns:
            return pc.cast(columns.pop(name), pa.string())
    return pa.nulls(n, pa.string())


def _file_column(url: str, schema: pa.Schema) -> str:
    _refuse_twice(url, schema.names)
    for name in FILE_COLUMNS:
        if name in schema.names and is_text(schema.field(name).type):
            return name
    raise SourceError(
        f"{url} has no column of file names. Its columns: {', '.join(schema.names)}. They are "
        f"looked for in: {', '.join(FILE_COLUMNS)}. Rename yours to one of these."
    )


def _read(url: str, report: ListingReport) -> pa.Table:
    """The whole table; rows with too few or too many fields are left out and counted."""

    def odd(row: csv.InvalidRow) -> str:
        report.add(f"a row of {row.actual_columns} fields, not {row.expected_columns}", row.text)
        return "skip"

    with _opened(url) as file:
        # In one thread: rows are left out in their order.
        table = csv.read_csv(file, csv.ReadOptions(use_threads=False), _parse(odd), CONVERT)
    _refuse_twice(url, table.column_names)
    for name in table.column_names:
        if pa.types.is_binary(table[name].type):
            raise SourceError(f"{url}: column {name!r} is not UTF-8. Save the table as UTF-8.")
    return table


def _refuse_twice(url: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{url} has several columns called {twice!r}: give each its own name.")


def _parse(odd: Callable[[csv.InvalidRow], str]) -> csv.ParseOptions:
    return csv.ParseOptions(newlines_in_values=True, invalid_row_handler=odd)


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    """A table's file, whose faults are those of the source."""
    try:
        file, _ = open_file(url)
    except (BadImage, FileNotFoundError, PermissionError) as error:
        raise SourceError(f"{url} cannot be read: {error}") from error
    with file:
        try:
            yield file
        except pa.ArrowInvalid as error:
            raise SourceError(f"{url} is no table of comma-separated values: {error}") from error
