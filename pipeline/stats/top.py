"""The K largest of every row, found one run of columns after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Top:
    """The K largest of every row, by falling value; of equal ones the lower number first.

    Attributes
    ----------
    index : (rows, K) int64
        Their numbers; -1 where there are fewer than K.
    value : (rows, K) float
        -inf there.
    """

    index: Ints
    value: Values


def top(values: Values, k: int, numbers: Ints) -> Top:
    """The K largest of every row, or all where there are fewer columns.

    Parameters
    ----------
    values : (rows, columns)
        -inf is never among them.
    k : int
    numbers : (columns,) int64
        What the columns are called, rising.
    """
    k = min(k, values.shape[1])
    part = np.sort(np.argpartition(-values, k - 1, axis=1)[:, :k], axis=1)
    part = _with_first_ties(values, part, k)
    chosen = np.take_along_axis(values, part, axis=1)
    order = np.argsort(-chosen, axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, axis=1)
    index = numbers[np.take_along_axis(part, order, axis=1)]
    return Top(np.where(chosen > -np.inf, index, -1), chosen)


def _with_first_ties(values: Values, part: Ints, k: int) -> Ints:
    """Replace what ``argpartition`` took at random among values equal to the K-th."""
    edge = np.take_along_axis(values, part, axis=1).min(axis=1, keepdims=True)
    tied = ((values == edge).sum(axis=1) > 1) & (edge[:, 0] > -np.inf)
    for row in np.flatnonzero(tied):
        part[row] = np.sort(np.argsort(-values[row], kind="stable")[:k])
    return part


def merge_top(parts: Sequence[Top], k: int) -> Top:
    """The K largest among those found in several runs of columns, in the runs' order."""
    index = np.concatenate([p.index for p in parts], axis=1)
    value = np.concatenate([p.value for p in parts], axis=1)
    order = np.argsort(-value, axis=1, kind="stable")[:, :k]
    return Top(np.take_along_axis(index, order, axis=1), np.take_along_axis(value, order, axis=1))
