"""Counts, means and covariances of contributions, mergeable in any order.

A reduction is three functions over a named float64 state: ``chunk`` reads rows,
``combine`` merges states, ``finalize`` ends. Chunks are centred by their own mean before
they are squared and merged by the pairwise update of Chan et al. 1979, so nothing cancels
when the mean is large beside the spread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from storage.errors import NotFinite

# Rows converted to float64 at once (values): one component's block stays in cache.
_BLOCK_VALUES = 1 << 19
# Spread, as a share of the mean, that rounding alone can make.
_ROUNDING = 16 * np.finfo(np.float64).eps


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
    first = rows.reshape(len(rows), math.prod(rows.shape[1:]))[:, 0]
    usable = np.ones(len(rows), bool) if ok is None else np.array(ok, bool)
    if usable.shape != (len(rows),):
        raise ValueError(
            f"ok has shape {usable.shape}; give one value for each of {len(rows)} rows"
        )
    for row in np.flatnonzero(usable & np.isnan(first)):
        usable[row] = not np.isnan(rows[row]).all()
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
    if rows.ndim < 2:
        raise ValueError(f"rows have shape {rows.shape}; give (N, ..., K), with K = 1 for scalars")
    usable = usable_rows(rows, ok)
    kept = rows if usable.all() else rows[usable]
    divisor = None if scale is None else _divisor(np.asarray(scale, np.float64), usable)
    state = empty(rows.shape[1:], covariance)
    if not len(kept):
        return state
    width = rows.shape[-1]
    flat_npk = kept.reshape(len(kept), -1, width)
    means_pk = state.mean.reshape(-1, width)
    m2s = state.m2.reshape(len(means_pk), width, -1)
    step = max(1, _BLOCK_VALUES // (len(kept) * width))
    for start in range(0, len(means_pk), step):
        part = slice(start, start + step)
        block_pnk = flat_npk[:, part].transpose(1, 0, 2).astype(np.float64)
        if divisor is not None:
            block_pnk /= divisor
        means_pk[part], squares = _centred_squares(block_pnk, covariance)
        m2s[part] = squares.reshape(len(squares), width, -1)
    if not (np.isfinite(state.mean).all() and np.isfinite(state.m2).all()):
        faulty = ~np.isfinite(flat_npk).all((1, 2))
        where = f"row {_row_of(usable, faulty)}" if faulty.any() else "their squares overflow"
        raise NotFinite(
            f"a row that is ok holds NaN or infinite values ({where}): the "
            "store is damaged there or its dtype overflowed; mask the row or extract it again"
        )
    return Moments(len(kept), state.mean, state.m2)


def _centred_squares(block_pnk: np.ndarray, covariance: bool) -> tuple[np.ndarray, np.ndarray]:
    """Means (p, k) of the rows, and the sums of squares about them; overwrites the block."""
    mean_pk = block_pnk.mean(1)
    with np.errstate(invalid="ignore", over="ignore"):  # the caller reports what is not finite
        block_pnk -= mean_pk[:, None]
        slip_pk = block_pnk.mean(1)  # what rounding left of the mean: the corrected two-pass rule
        block_pnk -= slip_pk[:, None]
        squares = (
            block_pnk.swapaxes(1, 2) @ block_pnk if covariance else (block_pnk * block_pnk).sum(1)
        )
    return mean_pk + slip_pk, squares


def _divisor(scale: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The scale of the usable rows, (n, 1)."""
    if scale.shape != usable.shape:
        raise ValueError(f"scale has shape {scale.shape}; give one value a row: {usable.shape}")
    faulty = ~((scale > 0) & np.isfinite(scale))[usable]
    if faulty.any():
        raise NotFinite(
            f"scale is {scale[_row_of(usable, faulty)]} in row {_row_of(usable, faulty)}, which is "
            "ok; it must be finite and above 0: check ln_std and embedding there, or mask the row"
        )
    return scale[usable, None]


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


def remove(total: Moments, part: Moments) -> Moments:
    """The state of the rows of ``total`` that are not in ``part``: `combine`, undone."""
    n = total.n - part.n
    if n <= 0:
        return Moments(0, np.zeros_like(total.mean), np.zeros_like(total.m2))
    if part.n == 0:
        return total
    delta = (part.mean - total.mean) * (total.n / n)  # between the means of part and rest
    outer = delta[..., :, None] * delta[..., None, :] if total.has_covariance else delta * delta
    m2 = total.m2 - part.m2 - outer * (n / total.n * part.n)
    return Moments(n, total.mean - (part.mean - total.mean) * (part.n / n), m2)


def finalize(state: Moments) -> Statistics:
    """Population mean, variance and covariance (divided by ``n``, as in Gandelsman 2025, Eq. 2.7).

    A coordinate that is constant up to rounding has variance 0 exactly.
    """
    if state.n == 0:
        raise ValueError("no rows to reduce: the subset matches no image that is ok")
    second = state.m2 / state.n
    variance = np.diagonal(second, axis1=-2, axis2=-1) if state.has_covariance else second
    # What a constant leaves behind is the rounding of its mean, not a variance.
    varies = variance > (_ROUNDING * state.mean) ** 2
    variance = np.where(varies, variance, 0.0)
    if not state.has_covariance:
        return Statistics(state.n, state.mean, variance, None)
    covariance = second * (varies[..., :, None] & varies[..., None, :])
    return Statistics(state.n, state.mean, variance, covariance)
