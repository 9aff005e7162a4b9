"""Counts, means and covariances of contributions, mergeable in any order.

A reduction is three functions over a named float64 state: ``chunk`` reads rows,
``combine`` merges states, ``finalize`` ends. Chunks are centred by their own mean before
they are squared and merged by the pairwise update of Chan, Golub & LeVeque (*Updating
formulae and a pairwise algorithm for computing sample variances*, 1979), so nothing
cancels when the mean is large beside the spread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Rows converted to float64 at once (values): one component's block stays in cache.
_BLOCK_VALUES = 1 << 19


@dataclass(frozen=True)
class Moments:
    """What is kept of the rows seen so far; every array is float64.

    Attributes
    ----------
    n : int
        Rows that entered.
    mean : (..., K)
        Their mean; zero where ``n`` is 0.
    m2 : (..., K, K) or (..., K)
        Sum of the outer products of the centred rows, or its diagonal alone.
    """

    n: int
    mean: np.ndarray
    m2: np.ndarray

    @property
    def has_covariance(self) -> bool:
        """Whether ``m2`` holds outer products and not their diagonal alone."""
        return self.m2.ndim == self.mean.ndim + 1


@dataclass(frozen=True)
class Statistics:
    """A finished reduction; population moments (divided by ``n``), float64.

    Attributes
    ----------
    n : int
    mean, variance : (..., K)
    covariance : (..., K, K) or None
    """

    n: int
    mean: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray | None


def empty(shape: tuple[int, ...], covariance: bool = True) -> Moments:
    """The state of no rows at all, for components of ``shape`` (..., K)."""
    return Moments(0, np.zeros(shape), np.zeros(shape + shape[-1:] if covariance else shape))


def usable_rows(rows: np.ndarray, ok: np.ndarray | None = None) -> np.ndarray:
    """Which rows enter a reduction: those that are ``ok`` and not wholly fill value.

    Parameters
    ----------
    rows : (N, ...) float
        NaN throughout in the rows of images that could not be read.
    ok : (N,) bool, optional

    Returns
    -------
    (N,) bool
    """
    flat = rows.reshape(len(rows), -1)
    usable = np.ones(len(rows), bool) if ok is None else np.array(ok, bool)
    if usable.shape != (len(rows),):
        raise ValueError(f"ok has shape {usable.shape}; give one value for each of {len(rows)} rows")
    suspects = np.flatnonzero(usable & np.isnan(flat[:, 0])) if flat.shape[1] else []
    for row in suspects:
        usable[row] = not np.isnan(flat[row]).all()
    return usable


def chunk(
    rows: np.ndarray,
    ok: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    covariance: bool = True,
) -> Moments:
    """State of one chunk of rows.

    Parameters
    ----------
    rows : (N, ..., K) float16, float32 or float64
        One row an image; leading axes such as (layer, head) are reduced side by side.
    ok : (N,) bool, optional
        Rows to use; rows that are NaN throughout never enter.
    scale : (N,) float, optional
        What each row is divided by. The published scale of a contribution is
        ``ln_std * ‖embedding‖``.
    covariance : bool
        Keep outer products, or only their diagonal.
    """
    rows = np.asarray(rows)
    usable = usable_rows(rows, ok)
    shape = rows.shape[1:]
    kept = rows if usable.all() else rows[usable]
    divisor = None
    if scale is not None:
        divisor = np.asarray(scale, np.float64)[usable, None]
        if not (divisor > 0).all() or not np.isfinite(divisor).all():
            raise ValueError(
                "scale must be finite and above 0 in every row that is ok; "
                f"row {_row_of(usable, ~(np.isfinite(divisor) & (divisor > 0)))} is not: "
                "check ln_std and embedding there, or mask the row"
            )
    state = empty(shape, covariance)
    if not len(kept):
        return state
    flat = kept.reshape(len(kept), -1, shape[-1])
    means = state.mean.reshape(-1, shape[-1])
    m2s = state.m2.reshape((len(means),) + state.m2.shape[len(shape) - 1 :])
    step = max(1, _BLOCK_VALUES // max(1, len(kept) * shape[-1]))
    for start in range(0, len(means), step):
        block = flat[:, start : start + step].transpose(1, 0, 2).astype(np.float64)
        if divisor is not None:
            block /= divisor
        mean = block.mean(1)
        if not np.isfinite(mean).all():
            raise ValueError(
                "a row that is ok holds NaN or infinite values (row "
                f"{_row_of(usable, ~np.isfinite(block).all((0, 2)))}): the store is damaged "
                "there or its dtype overflowed; mask the row or extract it again"
            )
        block -= mean[:, None]
        means[start : start + step] = mean
        m2s[start : start + step] = (
            block.swapaxes(1, 2) @ block if covariance else (block * block).sum(1)
        )
    return Moments(len(kept), state.mean, state.m2)


def _row_of(usable: np.ndarray, faulty: np.ndarray) -> int:
    """Index, among all rows, of the first usable row that is ``faulty``."""
    return int(np.flatnonzero(usable)[np.flatnonzero(faulty)[0]])


def combine(states: Iterable[Moments]) -> Moments:
    """Merge states of disjoint rows; the order and the grouping do not matter."""
    total: Moments | None = None
    for state in states:
        total = state if total is None else _merge(total, state)
    if total is None:
        raise ValueError("no states to combine: give at least one chunk")
    return total


def _merge(a: Moments, b: Moments) -> Moments:
    if a.mean.shape != b.mean.shape or a.m2.shape != b.m2.shape:
        raise ValueError(
            f"states of different components: means {a.mean.shape} and {b.mean.shape}, "
            f"second moments {a.m2.shape} and {b.m2.shape}"
        )
    if a.n == 0 or b.n == 0:
        return b if a.n == 0 else a
    n = a.n + b.n
    delta = b.mean - a.mean
    outer = delta[..., :, None] * delta[..., None, :] if a.has_covariance else delta * delta
    return Moments(n, a.mean + delta * (b.n / n), a.m2 + b.m2 + outer * (a.n / n * b.n))


def finalize(state: Moments) -> Statistics:
    """Population mean, variance and covariance (divided by ``n``, as in Eq. 2.7 of the thesis)."""
    if state.n == 0:
        raise ValueError("no rows to reduce: the subset matches no image that is ok")
    if not state.has_covariance:
        return Statistics(state.n, state.mean, state.m2 / state.n, None)
    covariance = state.m2 / state.n
    variance = np.diagonal(covariance, axis1=-2, axis2=-1).copy()
    return Statistics(state.n, state.mean, variance, covariance)
