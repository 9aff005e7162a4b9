"""Subsets of a store's images, by a condition over the columns of its image table.

A condition is read as a Python expression of which only names of columns, literals,
comparisons, ``in``, ``and``, ``or`` and ``not`` are understood, and becomes an Arrow expression:
nothing is ever executed. Null values match no comparison but ``== None``.
"""

from __future__ import annotations

import ast
import difflib
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import ledger
from storage.errors import FacetError
from storage.store import Store

_COMPARE = {ast.Eq: eq, ast.NotEq: ne, ast.Lt: lt, ast.LtE: le, ast.Gt: gt, ast.GtE: ge}
EXAMPLE = "split == 'val' and count in (1, 2)"


class SubsetError(FacetError):
    """A condition that cannot be understood, or that matches nothing."""


def parse_where(where: str, schema: pa.Schema) -> pc.Expression:
    """A condition as an Arrow expression over the columns of ``schema``.

    Raises
    ------
    SubsetError
        If it cannot be read, names an unknown column, or compares a column with a value of
        another type.
    """
    try:
        tree = ast.parse(where.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise SubsetError(f"--where {where!r} cannot be read: write it as {EXAMPLE}") from error
    expression = _Reader(where, schema).read(tree)
    try:
        schema.empty_table().filter(expression)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SubsetError(
            f"--where {where!r} does not fit the columns' types: {error}. "
            f"Columns: {_listed(schema)}"
        ) from error
    return expression


class _Reader:
    def __init__(self, where: str, schema: pa.Schema) -> None:
        self.where, self.schema = where, schema

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
                return self._column(name)
        raise self._not_understood(node)

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self._not_understood(right)
            found = self._operand(left).isin([self._literal(item) for item in right.elts])
            return found if isinstance(op, ast.In) else ~found
        if type(op) not in _COMPARE:
            raise self._not_understood(left)
        if isinstance(right, ast.Constant) and right.value is None:
            missing = self._operand(left).is_null()
            if isinstance(op, ast.Eq | ast.NotEq):
                return missing if isinstance(op, ast.Eq) else ~missing
        return _COMPARE[type(op)](self._operand(left), self._operand(right))

    def _operand(self, node: ast.expr) -> pc.Expression:
        if isinstance(node, ast.Name):
            return self._column(node.id)
        return pc.scalar(self._literal(node))

    def _literal(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
        raise self._not_understood(node)

    def _column(self, name: str) -> pc.Expression:
        if name not in self.schema.names:
            near = difflib.get_close_matches(name, self.schema.names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SubsetError(
                f"--where {self.where!r}: the image table has no column {name!r}{hint}. "
                f"Columns: {_listed(self.schema)}"
            )
        return pc.field(name)

    def _not_understood(self, node: ast.AST) -> SubsetError:
        return SubsetError(
            f"--where {self.where!r}: {ast.unparse(node)!r} is not understood. Use columns, "
            f"numbers, quoted texts, == != < <= > >= in, and, or, not; for example {EXAMPLE}"
        )


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} ({f.type})" for f in schema)


def check_where(store: Store, where: str | None) -> None:
    """Refuse a condition that the store's image table does not fit."""
    if where is not None:
        parse_where(where, store.images(0, 1).schema)


def shard_rows(store: Store, shard: int, where: str | None = None) -> tuple[pa.Table, np.ndarray]:
    """The image-table rows of a finished shard that are in a subset and ok.

    Returns
    -------
    rows : pyarrow.Table
    chosen : (images of the shard,) bool
        Which of the shard's images they are.
    """
    start, stop = store.meta.rows(shard)
    rows = store.images(start, stop)
    ok = np.asarray(ledger.read_part(store.url, shard)["ok"])
    matched = rows if where is None else rows.filter(parse_where(where, rows.schema))
    chosen = np.zeros(stop - start, bool)
    chosen[np.asarray(matched["index"]) - start] = True
    chosen &= ok
    return rows.filter(pa.array(chosen)), chosen
