"""Rows of the image list: pieces, tables with one schema, unique keys, and the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

# What Pillow opens and is no picture (data, pages, films), is drawn by another program, or has a
# suffix that mostly means something else (point clouds, circuit boards, installers).
NO_PICTURES = frozenset(
    ["BUFR", "EPS", "FITS", "GBR", "GRIB", "HDF5", "IM", "IPTC", "MPEG", "MSP", "PCD", "WMF"]
)
FIXED = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("label", pa.string()),
        ("caption", pa.string()),
    ]
)
# Rows without a key, of a Parquet file: the path that they name, or the file as it was when it was
# listed (its size and a digest). Nothing else says that a row is the row it was.
ROW_ORIGIN = "row_origin"
RESERVED = frozenset(["index", *FIXED.names, ROW_ORIGIN])
EXAMPLES = 3


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task can list.

    Attributes
    ----------
    kind : {"folder", "tar", "parquet", "csv", "waterbirds", "microworld", "gtsegs"}
    url : str
        The folder or file; of the microworld and of gtsegs, what their rows carry as ``uri``.
    space : str
        Keys of two pieces can be equal only if their spaces are.
    root : str
        Folders: keys are paths relative to it. Tables: their folder.
    names : tuple of str
        Folders: when not empty, list these files only.
    start, stop : int
        Microworld: the range of picture indices.
    """

    kind: str
    url: str
    space: str
    root: str = ""
    names: tuple[str, ...] = ()
    start: int = 0
    stop: int = 0


@dataclass
class ListingReport:
    """How many images were listed, and what was left out or looked odd, by reason."""

    images: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Count one thing under ``reason``; the first few are kept as examples."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(clean(example))

    def merge(self, other: ListingReport) -> None:
        """Take over what ``other`` counted."""
        self.images += other.images
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            shown = self.examples.setdefault(reason, [])
            shown += other.examples[reason][: EXAMPLES - len(shown)]

    def lines(self) -> list[str]:
        """One line a reason, the most frequent first."""
        return [f"{n} x {reason}: {', '.join(self.examples[reason])}" for reason, n in self._most()]

    def facts(self) -> dict[str, str]:
        """The same for a job's summary: how many and which, by reason."""
        return {
            f"  listing: {reason}": f"{n:,}, such as {', '.join(self.examples[reason])}"
            for reason, n in self._most()
        }

    def _most(self) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))


@cache
def image_suffixes() -> tuple[str, ...]:
    """Suffixes of the pictures that the decoder reads with Pillow as it is installed."""
    Image.init()
    formats = {*Image.OPEN, "MPO"} - NO_PICTURES  # MPO is opened as JPEG
    known = Image.registered_extensions().items()
    return tuple(s for s, f in known if f in formats and s != ".pfm")  # 32-bit, always refused


def is_image_name(name: str) -> bool:
    """Whether the suffix, in any case, is one of ``image_suffixes``."""
    return name.lower().endswith(image_suffixes())


def is_hidden(path: str) -> bool:
    """Whether any part of a relative path begins with a dot (as macOS's ``._a.jpg`` does)."""
    return any(part.startswith(".") for part in path.split("/"))


def clean(text: str) -> str:
    """``text`` with what UTF-8 cannot hold (lone surrogates) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def unique_keys(keys: Iterable[str], seen: set[str], report: ListingReport) -> list[str]:
    """Keys made unique: the second ``a`` becomes ``a~2``, the third ``a~3``; ``seen`` grows."""
    result = []
    for key in keys:
        fresh, n = key, 1
        while fresh in seen:
            n += 1
            fresh = f"{key}~{n}"
        if n > 1:
            report.add("duplicate key, kept under a new one", f"{key} -> {fresh}")
        seen.add(fresh)
        result.append(fresh)
    return result


def as_text(value: Any) -> str | None:
    """A metadata value as text: JSON, but text as it is and whole numbers without a point.

    ``1`` and ``1.0`` give the same text, since which of the two a number becomes in a table
    depends on the rows beside it.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        value = int(value)
    return clean(json.dumps(value, ensure_ascii=False, default=str))


def as_column(values: list[Any]) -> pa.Array:
    """Python values as the narrowest of bool, int64, float64 and string that holds them all."""
    kinds = {type(v) for v in values if v is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int, float} and all(-(2**63) <= v < 2**63 for v in values if isinstance(v, int)):
        return pa.array(values, pa.int64() if kinds == {int} else pa.float64())
    return pa.array([as_text(v) for v in values], pa.string())


def image_table(
    rows: list[dict[str, Any]], metadata: list[dict[str, Any]], report: ListingReport
) -> pa.Table:
    """The table of one piece; its keys need not be unique yet.

    Parameters
    ----------
    rows : list of dict
        The values of the columns of ``FIXED``.
    metadata : list of dict
        Further columns; a row need not have them all.
    report : ListingReport
        Gets the number of images.
    """
    report.images += len(rows)
    fixed = {name: [row[name] for row in rows] for name in FIXED.names}
    table = pa.table(fixed, schema=FIXED)
    for name in dict.fromkeys(name for row in metadata for name in row):
        table = table.append_column(name, as_column([row.get(name) for row in metadata]))
    return table


def unify(first: pa.Schema, second: pa.Schema) -> pa.Schema:
    """A schema that both fit: wider numbers where both are numbers, else text."""
    fields = {f.name: f for f in first}
    for new in second:
        old = fields.get(new.name, new)
        try:
            both = [pa.schema([old]), pa.schema([new])]
            fields[new.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            fields[new.name] = pa.field(new.name, pa.string())
    return pa.schema(list(fields.values()))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with the columns of ``schema``; those that it lacks are null."""
    columns = []
    for wanted in schema:
        if wanted.name not in table.column_names:
            columns.append(pa.nulls(len(table), wanted.type))
            continue
        column = table[wanted.name]
        if pa.types.is_floating(column.type) and pa.types.is_string(wanted.type):
            columns.append(pa.array([as_text(v) for v in column.to_pylist()], pa.string()))
            continue
        # Whole numbers above 2**53 may lose their last digits where others hold fractions.
        safe = not pa.types.is_floating(wanted.type)
        columns.append(pc.cast(column, wanted.type, safe=safe))
    return pa.table(columns, schema=schema)
