"""The image table with what became of each image: any column filtered, sorted, paged.

DuckDB reads the columns that a question is about from the store's Parquet parts; conditions are
those of ``pipeline.subsets``. What was read and how images are ordered is kept as long as the store
is as it was, so that the next page costs nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.explorer.columns import PLACES
from pipeline.explorer.library import NotHere, Opened
from pipeline.explorer.passes import PASS
from pipeline.subsets import parse_where
from storage import ledger, urls
from storage.errors import StoreError
from storage.layout import IMAGES
from storage.objects import is_local

# Rows of a page.
PAGE = 50
# What the ledger says of an image, beside the image table's own columns.
OF_LEDGER = {"ok": pa.bool_(), "error": pa.string(), "width": pa.int32(), "height": pa.int32()}
# Images of a store whose columns are held in memory; of a larger one each page reads its rows.
HELD = 4_000_000
# Rows that lie so near each other are read from their parts.
NEAR = 4096

# What reads object stores is ours: DuckDB fetches nothing.
OFFLINE: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Row:
    """An image.

    Attributes
    ----------
    index : int
    key : str
    ok : bool or None
        Whether the store has its contributions; None as long as its shard is not finished.
    error : str or None
        Why it is bad.
    values : dict
        The other columns' values by name.
    """

    index: int
    key: str
    ok: bool | None
    error: str | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Images:
    """A page of the image table.

    Attributes
    ----------
    where : str
        The condition that its images fulfil; empty: all.
    sort : str
        The column that sorts them, missing values last, equal ones in the store's order.
    down : bool
        The largest first.
    columns : dict of str to str
        All columns by which images can be found and sorted, and their types.
    images, matching : int
        How many the store has, and how many fulfil the condition.
    first : int
        The place of the first row among those, from 1; 0 where there is none.
    rows : tuple of Row
    before, after, last : int or None
        The image after which the page before, the next page and the last page begin; -1 is the
        beginning. None where there is no such page.
    """

    where: str
    sort: str
    down: bool
    columns: Mapping[str, str]
    images: int
    matching: int
    first: int
    rows: tuple[Row, ...]
    before: int | None
    after: int | None
    last: int | None

    def shown(self) -> list[str]:
        """Columns of a page: those that say what images are of, and the one that sorts."""
        own = ("index", "key", "ok", "error")  # have a place of their own in a row
        passed = PLACES - {self.sort}
        return [name for name in self.columns if name not in own and name not in passed]

    def is_number(self, name: str) -> bool:
        """Whether a column's values stand under each other's last digits."""
        return self.columns[name].startswith(
            ("int", "uint", "float", "double", "decimal", "halffloat")
        )

    def with_value(self, name: str, value: object) -> str | None:
        """The condition that also asks for a column's value; None where it cannot be asked for."""
        if not (name.isidentifier() and (value is None or isinstance(value, bool | int | str))):
            return None
        asked = f"{name} == {value!r}"
        return f"({self.where}) and {asked}" if self.where else asked


def page(
    here: Opened, where: str = "", sort: str = "index", down: bool = False, after: int = -1
) -> Images:
    """A page of the image table.

    Parameters
    ----------
    here : Opened
    where : str
        A condition as `pipeline.subsets.parse_where` reads it, over columns of the image table and
        ``ok``, ``error``, ``width``, ``height`` of the ledger; all images if empty.
    sort : str
        A column.
    down : bool
        The largest first.
    after : int
        The image after which the page begins; -1: the beginning.

    Raises
    ------
    SubsetError
        If the condition cannot be understood.
    NotHere
        If there is no such column, or the image is none of those.
    """
    where = where.strip()
    columns = {name: str(kind) for name, kind in fields(here).items()}
    if sort not in columns:
        raise NotHere(f"there is no column {sort[:60]!r}, but {', '.join(columns)}")
    found = matching(here, where, sort, down)
    start = 0
    if after >= 0:
        places = np.flatnonzero(found == after)
        if not len(places):
            raise NotHere(f"image {after} is none of the {len(found):,} that are asked for")
        start = int(places[0]) + 1
    numbers = found[start : start + PAGE]

    def begins(at: int) -> int:
        return int(found[at - 1]) if at > 0 else -1

    end = start + PAGE
    return Images(
        where=where,
        sort=sort,
        down=down,
        columns=columns,
        images=here.meta.images,
        matching=len(found),
        first=start + 1 if len(numbers) else 0,
        rows=tuple(as_rows(rows(here, numbers))) if len(numbers) else (),
        before=begins(start - PAGE) if start else None,
        after=begins(end) if end < len(found) else None,
        last=begins((len(found) - 1) // PAGE * PAGE) if end < len(found) else None,
    )


def fields(here: Opened) -> dict[str, pa.DataType]:
    """All columns by which images can be found, those of the image table first."""
    own = _own(here)
    return own | {name: kind for name, kind in OF_LEDGER.items() if name not in own}


def matching(here: Opened, where: str, sort: str = "index", down: bool = False) -> Numbers:
    """Numbers of the images that fulfil a condition, in the order of a column."""

    def find() -> Numbers:
        order = _order(here, sort, down)
        return order[chosen(here, where)[order]] if where else order

    return here.cached(("matching", where, sort, down), find)


def chosen(here: Opened, where: str) -> NDArray[np.bool_]:
    """Which images fulfil a condition over any column, (images,); bad ones are among them."""

    def find() -> NDArray[np.bool_]:
        condition = parse_where(where, pa.schema(list(fields(here).items())))
        names = ast.walk(ast.parse(where.strip(), mode="eval"))
        asked = {node.id for node in names if isinstance(node, ast.Name)}
        table = pa.table({name: column(here, name) for name in sorted(asked | {"index"})})
        among = np.zeros(here.meta.images, bool)
        among[table.filter(condition)["index"].to_numpy()] = True
        return among

    return here.cached(("chosen", where), find)


def column(here: Opened, name: str) -> pa.ChunkedArray:
    """A column of all images, in their order; of the ledger, null where it says nothing yet."""

    def read() -> pa.ChunkedArray:
        return _read(here, _image_parts(here), str(duckdb.ColumnExpression(name)))[name]

    def of_ledger() -> pa.Table:  # at once: it has a file for every shard
        done = sorted(here.store.done_shards())
        if not done:
            nulls = {n: pa.nulls(here.meta.images, kind) for n, kind in OF_LEDGER.items()}
            return pa.table(nulls)
        parts = [ledger.part_url(here.store.data, shard) for shard in done]
        said = _read(here, parts, ", ".join(["index", *OF_LEDGER]))
        place = np.full(here.meta.images, -1)
        place[said["index"].to_numpy()] = np.arange(len(said))
        return said.take(pa.array(place, mask=place < 0))

    if name in _own(here):
        return here.cached(("table column", name), read)
    return here.cached("table columns of the ledger", of_ledger)[name]


def rows(here: Opened, numbers: NDArray[np.integer]) -> pa.Table:
    """Rows of some images with what the ledger says of them, in the order of the numbers.

    Parameters
    ----------
    numbers : (n,) integers
        At least one; each once.
    """
    near = int(numbers.max()) - int(numbers.min()) < NEAR
    if here.meta.images <= HELD and not near:
        at = pa.array(numbers)
        return pa.table({name: column(here, name).take(at) for name in fields(here)})
    table = here.store.some_images(np.asarray(numbers, np.int64))
    order = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
    said = _said(here, np.sort(numbers))
    for name in OF_LEDGER:
        if name not in table.column_names:
            table = table.append_column(name, said[name])
    return table.take(pa.array(order))


def as_rows(table: pa.Table) -> list[Row]:
    """Rows as they are shown."""
    found = []
    for row in table.to_pylist():
        known = {n: row.pop(n) for n in ("index", "key", "ok", "error")}
        found.append(Row(**known, values={name: _plain(value) for name, value in row.items()}))
    return found


def _plain(value: Any) -> bool | int | float | str | None:
    """A value as JSON has it."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _order(here: Opened, sort: str, down: bool) -> Numbers:
    """All images in the order of a column."""

    def find() -> Numbers:
        if sort == "index":
            numbers = np.arange(here.meta.images, dtype=np.int32)
            return numbers[::-1] if down else numbers
        values = pa.table({"index": column(here, "index"), "value": column(here, sort)})
        # NaN is a missing value, as in conditions; DuckDB would take it for the largest.
        floating = pa.types.is_floating(values["value"].type)
        value = "nullif(value, 'NaN')" if floating else "value"
        way = "DESC" if down else "ASC"
        with PASS, duckdb.connect() as asked:
            asked.register("t", values)
            found = asked.sql(f"SELECT index FROM t ORDER BY {value} {way} NULLS LAST, index")
            return found.fetchnumpy()["index"].astype(np.int32)

    return here.cached(("order", sort, down), find)


def _said(here: Opened, numbers: NDArray[np.integer]) -> pa.Table:
    """What the ledger says of some images, in rising order; nulls where it says nothing yet."""
    done, size = here.store.done_shards(), here.meta.shard_size
    empty = {name: pa.nulls(1, kind) for name, kind in OF_LEDGER.items()}
    parts = []
    for shard in np.unique(numbers // size).tolist():
        at = numbers[numbers // size == shard] - shard * size
        if shard in done:
            parts.append(ledger.read_part(here.store.data, shard).select(list(OF_LEDGER)).take(at))
        else:
            parts.append(pa.table(empty).take(pa.array(np.zeros(len(at), int))))
    return pa.concat_tables(parts)


def _own(here: Opened) -> dict[str, pa.DataType]:
    """The image table's own columns, less those that hold no single value."""

    def read() -> dict[str, pa.DataType]:
        types = pa.types
        found = _read(here, _image_parts(here), "*", rows=0).schema
        flat = (f for f in found if not (types.is_nested(f.type) or types.is_binary(f.type)))
        return {f.name: f.type for f in flat}

    return here.cached("image columns", read)


def _image_parts(here: Opened) -> list[str]:
    place = urls.join(here.store.data, IMAGES)
    return [urls.join(place, name) for name in urls.list_names(place) if name.startswith("part-")]


def _read(here: Opened, parts: Sequence[str], which: str, rows: int | None = None) -> pa.Table:
    """Columns of Parquet parts, in the parts' order; what a part lacks is null."""
    of_all = PASS if rows is None else nullcontext()
    with of_all, duckdb.connect(config=OFFLINE) as asked:
        if not is_local(parts[0]):
            asked.register_filesystem(urls.filesystem(parts[0])[0])
        try:
            found = asked.read_parquet(list(parts), union_by_name=True).project(which)
            return (found if rows is None else found.limit(rows)).to_arrow_table()
        except duckdb.Error as error:
            raise StoreError(f"the image table of {here.typed} cannot be read: {error}") from error
