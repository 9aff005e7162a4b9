"""The image list: every image of a source, in a fixed order, as Arrow tables."""

from __future__ import annotations

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from storage.layout import CONTRIBUTIONS
from storage.objects import is_local

from .csvs import refuse_table
from .errors import SourceError
from .parquet import refuse_columns
from .rows import ListingReport, Piece, conform, is_image_name, unify, unique_keys
from .sources import list_piece, pieces


def list_images(
    source: str,
    *,
    limit: int | None = None,
    mapper: Callable[..., Iterable[Any]] = map,
    report: ListingReport | None = None,
) -> Iterator[pa.Table]:
    """The image table of a source, piece by piece, in a stable order.

    Every table has the same schema, so the pieces are listed once into a temporary folder
    (compressed; ``TMPDIR`` says where) and given out when the last one is known. Memory
    holds the pieces in flight, not the list.

    Parameters
    ----------
    source : str
        See ``pipeline.images.sources``.
    limit : int, optional
        The first so many images only.
    mapper : callable
        ``map``, or one like it, to list pieces in parallel.
    report : ListingReport, optional
        Filled while listing: complete when the first table comes out.

    Yields
    ------
    pyarrow.Table
        ``index, key, uri, offset, length, label, caption``, then metadata.

    Raises
    ------
    SourceError
        At once for what the source's name shows; on the first table if it holds no image.
    """
    if limit is not None and limit < 1:
        raise SourceError(f"limit is {limit}; it must be at least 1 image.")
    report = ListingReport() if report is None else report
    return _stream(source, pieces(source), limit, mapper, report)


def refuse_source(source: str) -> None:
    """Refuse a source that holds no images, as far as a look tells.

    Of local folders one image is sought, of Parquet files and tables the columns of the first are
    read; tars and objects are only found.

    Raises
    ------
    SourceError
        As ``list_images``; and of a store, which is no source.
    """
    todo = pieces(source)
    for root in {piece.root for piece in todo if piece.kind == "folder" and is_local(piece.root)}:
        if Path(root, CONTRIBUTIONS).exists():
            raise SourceError(
                f"{root} is a store, which holds no pictures: name the folder, tars or Parquet "
                "files that they are in."
            )
    if todo and todo[0].kind == "parquet":
        refuse_columns(todo[0].url)
    elif todo and todo[0].kind == "csv":
        refuse_table(todo[0].url)
    elif not any(map(_may_hold, todo)):
        next(list_images(source, limit=1))


def _may_hold(piece: Piece) -> bool:
    """Whether a piece holds an image; of what would have to be read, it is said to."""
    if piece.kind != "folder" or piece.names or not is_local(piece.url):
        return True
    return any(is_image_name(name) for _, _, names in os.walk(piece.url) for name in names)


def _stream(
    source: str,
    todo: list[Piece],
    limit: int | None,
    mapper: Callable[..., Iterable[Any]],
    report: ListingReport,
) -> Iterator[pa.Table]:
    shared = {space for space, n in Counter(p.space for p in todo).items() if n > 1}
    seen: dict[str, set[str]] = defaultdict(set)
    schema, total = pa.schema([]), 0
    parts: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="facet-list-") as folder:
        for piece, (table, part) in zip(todo, mapper(list_piece, todo), strict=False):
            report.merge(part)
            if limit is not None:
                table = table.slice(0, limit - total)
            if piece.space in shared:
                table = _with_unique_keys(table, seen[piece.space], report)
            elif pc.count_distinct(table["key"]).as_py() < len(table):
                table = _with_unique_keys(table, set(), report)
            if len(table):
                parts.append(Path(folder) / f"{len(parts)}.arrow")
                feather.write_feather(table, str(parts[-1]))
                schema = unify(schema, table.schema)
                total += len(table)
            if total == limit:
                break
        report.images = total
        if not total:
            left_out = "; ".join(report.lines())
            raise SourceError(f"No image in {source}. Left out: {left_out or 'nothing'}.")
        first = 0
        for path in parts:
            table = conform(feather.read_table(str(path), memory_map=False), schema)
            path.unlink()
            index = pa.array(range(first, first + len(table)), pa.int64())
            yield table.add_column(0, "index", index)
            first += len(table)


def _with_unique_keys(table: pa.Table, seen: set[str], report: ListingReport) -> pa.Table:
    keys = unique_keys(table["key"].to_pylist(), seen, report)
    return table.set_column(0, "key", pa.array(keys, pa.string()))
