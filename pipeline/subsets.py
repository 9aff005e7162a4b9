"""Subsets of a store's images, by a condition over the columns of its image table.

A condition is read as a Python expression of which only names of columns, literals,
comparisons, ``in``, ``and``, ``or`` and ``not`` are understood, and becomes an Arrow expression:
nothing is ever executed.

A missing value, null or NaN, is not known, and neither is what is compared with it, as in SQL: not
known and false is false, not known or true is true, ``not`` leaves it not known, and an image is
taken only where the condition is true. So ``label != 'cat'``, ``label not in ('cat',)`` and
``not label == 'cat'`` all leave out images without a label. Only ``None`` stands for a missing
value: ``label == None``, ``label != None``, ``label in ('cat', None)``.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import ledger
from storage.errors import FacetError
from storage.layout import ROWS_PER_IMAGE_PART
from storage.tables import StoreTables

_COMPARE = {ast.Eq: eq, ast.NotEq: ne, ast.Lt: lt, ast.LtE: le, ast.Gt: gt, ast.GtE: ge}
Literal = bool | int | float | str
# Arrow goes down an expression by recursion, and does not look how much stack is left.
MOST = 300
EXAMPLE = "split == 'val' and count in (1, 2)"


class SubsetError(FacetError):
    """A condition that cannot be understood, or that matches nothing."""


def parse_where(where: str, schema: pa.Schema, setting: str = "where") -> pc.Expression:
    """A condition as an Arrow expression over the columns of ``schema``.

    ``setting`` is what gave it.

    Raises
    ------
    SubsetError
        If it cannot be read, is too long, names an unknown column, or compares a column with a
        value of another type.
    """
    try:
        tree = ast.parse(where.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SubsetError(f"`{setting}` {where!r} cannot be read: write it as {EXAMPLE}") from error
    if sum(isinstance(node, ast.Name | ast.Not) for node in ast.walk(tree)) > MOST:
        raise SubsetError(
            f"`{setting}` {where[:40]!r} … names columns more than {MOST} times: list values "
            "instead, as in count in (1, 2)"
        )
    try:
        expression = _Reader(where, schema, setting).read(tree)
        schema.empty_table().filter(expression)
    except (pa.ArrowException, OverflowError) as error:
        raise SubsetError(
            f"`{setting}` {where!r} does not fit the columns' types: {error}. "
            f"Columns: {_listed(schema)}"
        ) from error
    return expression


class _Reader:
    def __init__(self, where: str, schema: pa.Schema, setting: str) -> None:
        self.where, self.schema, self.setting = where, schema, setting

    def read(self, node: ast.expr) -> pc.Expression:
        match node:
            case ast.BoolOp(op=op, values=values):
                return reduce(and_ if isinstance(op, ast.And) else or_, map(self.read, values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.read(operand)
            case ast.Compare(left=left, ops=ops, comparators=right):
                pairs = zip([left, *right], ops, right, strict=False)
                return reduce(and_, [self._compare(a, op, b) for a, op, b in pairs])
            case ast.Name(id=name):
                if pa.types.is_boolean(of := self._type(node)):
                    return self._column(node)
                raise pa.ArrowTypeError(f"{name} is {of}, which is neither true nor false")
        raise self._not_understood(node)

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        match left, op, right:
            case ast.Name(), ast.In() | ast.NotIn(), ast.List() | ast.Tuple() | ast.Set():
                found = self._among(left, [self._literal(item) for item in right.elts])
                return found if isinstance(op, ast.In) else ~found
            case (ast.Name() as name, ast.Eq() | ast.NotEq(), ast.Constant(value=None)) | (
                ast.Constant(value=None),
                ast.Eq() | ast.NotEq(),
                ast.Name() as name,
            ):
                missing = self._column(name).is_null()
                return missing if isinstance(op, ast.Eq) else ~missing
        if type(op) not in _COMPARE:
            raise self._not_understood(ast.Compare(left, [op], [right]))
        match left, right:
            case ast.Name(), ast.Name():
                exact = _exact(self._type(left), self._type(right))
                a, b = self._column(left, exact), self._column(right, exact)
            case ast.Name(), _:
                a, (b,) = self._fitted(left, [self._known(right)])
            case _, ast.Name():
                b, (a,) = self._fitted(right, [self._known(left)])
            case _:
                raise self._not_understood(ast.Compare(left, [op], [right]))
        return _COMPARE[type(op)](a, b)

    def _among(self, column: ast.Name, values: Sequence[Literal | None]) -> pc.Expression:
        """Whether it is one of these; not known where it is missing, unless None is one."""
        expression, known = self._fitted(column, [v for v in values if v is not None])
        found, missing = expression.isin(known), expression.is_null()
        if None in values:
            return found | missing
        return pc.if_else(missing, pc.scalar(pa.scalar(None, pa.bool_())), found)

    def _fitted(
        self, column: ast.Name, values: Sequence[Literal]
    ) -> tuple[pc.Expression, pa.Array]:
        """A column and values as one type, in which they compare as in Python.

        Left alone, Arrow would round 1.5 to fit a column of integers, or the integers to fit it.
        """
        of, exact = self._type(column), True
        kinds = {type(value) for value in values}
        if pa.types.is_integer(of) and kinds <= {int}:
            fitted = pa.array(values, pa.uint64() if pa.types.is_uint64(of) else pa.int64())
        elif (pa.types.is_integer(of) or pa.types.is_decimal(of)) and kinds <= {int, float}:
            fitted, exact = pa.array(map(float, values), pa.float64()), False
        elif pa.types.is_floating(of) and kinds <= {int, float}:
            # 0.1 means the column's own 0.1.
            own = of.to_pandas_dtype()
            with np.errstate(over="ignore"):
                fitted = pa.array([float(own(value)) for value in values], pa.float64())
        elif pa.types.is_temporal(of) and kinds <= {str}:
            fitted = pa.array(values, pa.string()).cast(of)
        elif pa.types.is_boolean(of) != (kinds == {bool}) and kinds:
            raise pa.ArrowTypeError(f"{column.id} is {of}, and it is compared with {values[0]!r}")
        else:
            fitted = pa.array(values, None if values else of)
        return self._column(column, exact), fitted

    def _literal(self, node: ast.expr) -> Literal | None:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
        raise self._not_understood(node)

    def _known(self, node: ast.expr) -> Literal:
        value = self._literal(node)
        if value is None:
            raise self._not_understood(node)
        return value

    def _type(self, column: ast.Name) -> pa.DataType:
        of = self.schema.field(self._name(column)).type
        return of.value_type if pa.types.is_dictionary(of) else of

    def _column(self, column: ast.Name, exact: bool = True) -> pc.Expression:
        """A column with NaN as null; all numbers as floating ones unless ``exact``."""
        field, of = pc.field(self._name(column)), self._type(column)
        if of != self.schema.field(column.id).type:  # a dictionary's values
            field = field.cast(of)
        if pa.types.is_floating(of):
            number = field.cast(pa.float64())
            return pc.if_else(pc.is_nan(number), pc.scalar(pa.scalar(None, pa.float64())), number)
        return field if exact else field.cast(pa.float64(), safe=False)

    def _name(self, column: ast.Name) -> str:
        name = column.id
        if name not in self.schema.names:
            near = difflib.get_close_matches(name, self.schema.names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SubsetError(
                f"`{self.setting}` {self.where!r}: the image table has no column {name!r}{hint}. "
                f"Columns: {_listed(self.schema)}"
            )
        return name

    def _not_understood(self, node: ast.AST) -> SubsetError:
        return SubsetError(
            f"`{self.setting}` {self.where!r}: {ast.unparse(node)!r} is not understood. Use "
            f"columns, numbers, quoted texts, == != < <= > >= in, and, or, not, as in {EXAMPLE}"
        )


def _exact(a: pa.DataType, b: pa.DataType) -> bool:
    """Whether Arrow itself compares columns of two types; some integers have no type in common."""
    decimal, whole, floating = pa.types.is_decimal, pa.types.is_integer, pa.types.is_floating
    numbers = all(decimal(t) or whole(t) or floating(t) for t in (a, b))
    wide = any(decimal(t) or pa.types.is_uint64(t) or floating(t) for t in (a, b))
    return a == b or not (numbers and wide)


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} ({f.type})" for f in schema)


def check_where(store: StoreTables, where: str | None, setting: str = "where") -> None:
    """Refuse a condition that does not fit the store's image table or, if that is small, any row.

    Parameters
    ----------
    setting : str
        What gave the condition.
    """
    if where is None:
        return
    small = store.meta.images <= ROWS_PER_IMAGE_PART
    rows = store.images() if small else store.images(0, 1)
    if not rows.filter(parse_where(where, rows.schema, setting)).num_rows and small:
        raise SubsetError(
            f"`{setting}` {where!r} matches no image of the {store.meta.images:,}: check the "
            "values in the image table"
        )


def shard_rows(
    store: StoreTables, shard: int, where: str | None = None
) -> tuple[pa.Table, np.ndarray]:
    """The image-table rows of a finished shard that are in a subset and ok.

    Returns
    -------
    rows : pyarrow.Table
    chosen : (images of the shard,) bool
        Which of the shard's images they are.
    """
    start, stop = store.meta.rows(shard)
    rows = store.images(start, stop)
    ok = np.asarray(ledger.read_part(store.data, shard)["ok"])
    matched = rows if where is None else rows.filter(parse_where(where, rows.schema))
    chosen = np.zeros(stop - start, bool)
    chosen[np.asarray(matched["index"]) - start] = True
    chosen &= ok
    return rows.filter(pa.array(chosen)), chosen


def spread(shards: Sequence[int], most: int) -> list[int]:
    """All shards, or so many of them, spread evenly."""
    if len(shards) <= most:
        return list(shards)
    return [shards[int(i)] for i in np.linspace(0, len(shards) - 1, most)]


def chosen_rows(
    group: Any, names: Sequence[str], start: int, chosen: np.ndarray, at_once: int | None = None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Rows of the chosen ones of a run of images, a bounded number at a time.

    Parameters
    ----------
    group : zarr.Group
    names : sequence of str
        Of arrays along the images.
    start : int
        The first image.
    chosen : (images,) bool
    at_once : int, optional
        Images that are read at once; all of them unless given.

    Yields
    ------
    numbers : (n,) int64
        Of images; at least one.
    rows : dict of str to array (n, ...)
        As stored.
    """
    step = at_once or max(1, len(chosen))
    for first in range(0, len(chosen), step):
        keep = chosen[first : first + step]
        if keep.any():
            at = slice(start + first, start + first + len(keep))
            numbers = at.start + np.flatnonzero(keep)
            yield numbers, {name: np.asarray(group[name][at])[keep] for name in names}
