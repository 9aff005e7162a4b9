"""Concepts that a subset's images have more of than all others: scores in, tables out.

Of every text it is counted, inside of the subset and outside: the mean and the spread of its
score, and the images that have it among their first ``FIRST``. Counts merge in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.stats.moments import Moments, chunk, combine
from pipeline.stats.shares import more_often
from pipeline.stats.top import Top, top
from pipeline.telling import several
from storage.errors import FacetError

from .tables import OVER

# The first so many texts of an image are what it is said to show.
FIRST = 10
# Share of the intervals that may miss their figure.
LEVEL = 0.05
# Images of either side without which there is no spread.
FEWEST = 2

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Side:
    """Images of one side of a condition, counted.

    Attributes
    ----------
    scores : Moments
        Of every text's score, (M,), without covariance.
    first_m : (M,) int64
        Images that have the text among their first.
    """

    scores: Moments
    first_m: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sides:
    """Images inside of a subset and outside."""

    inside: Side
    outside: Side


def count(scores_bm: NDArray[np.floating], inside_b: NDArray[np.bool_]) -> Sides:
    """Counts of some images.

    Parameters
    ----------
    scores_bm : (B, M)
        Of every text on every image, finite.
    inside_b : (B,) bool
        Which of the images are in the subset.
    """
    has_bm = np.zeros(scores_bm.shape, bool)
    index_bk = first(scores_bm, FIRST).index
    np.put_along_axis(has_bm, index_bk, True, axis=1)
    # What stands at -1 is the last text, where an image has fewer.
    has_bm &= scores_bm > 0
    sides = [
        Side(chunk(scores_bm[of], covariance=False), has_bm[of].sum(0))
        for of in (inside_b, ~inside_b)
    ]
    return Sides(*sides)


def first(scores_bm: NDArray[np.floating], k: int) -> Top:
    """The texts of the largest scores above 0 of every image: at most k."""
    above_bm = np.where(scores_bm > 0, scores_bm, -np.inf)
    return top(above_bm, k, np.arange(scores_bm.shape[1]))


def merge(counts: Iterable[Sides]) -> Sides:
    """Counts of the images of all."""
    found = list(counts)
    sides = [[one.inside for one in found], [one.outside for one in found]]
    return Sides(*(_merged(of) for of in sides))


def _merged(sides: Sequence[Side]) -> Side:
    first_m = np.sum([side.first_m for side in sides], axis=0)
    return Side(combine(side.scores for side in sides), first_m)


def refuse_few(inside: int, outside: int) -> None:
    """Refuse a subset that leaves too few images on either side for any interval.

    Raises
    ------
    FacetError
    """
    for n, side, what in ((inside, "in", "wider"), (outside, "outside of", "narrower")):
        if n < FEWEST:
            raise FacetError(
                f"`where` leaves {several(n, 'image')} {side} the subset, and differences are told "
                f"from at least {FEWEST} on either side: choose a {what} one"
            )


def over_table(found: Sides, texts: Sequence[str], method: str) -> pd.DataFrame:
    """Texts by how surely they are over-represented, as ``tables.OVER`` has them.

    The difference of the mean scores has the interval of Welch (1947), as the sides have spreads
    of their own: Student's, of ν = (a + b)² / (a²/(n_a - 1) + b²/(n_b - 1)) degrees of freedom with
    a = s_a²/n_a. Many texts are said of few images, and a side on which by chance one never was
    has no spread of its own: s_a² is at least that of all images. ``low`` and ``high`` hold for
    their text alone, ``low_all`` and ``high_all`` for all M texts at once (Bonferroni, 1 -
    ``LEVEL``/M each), as the highest of many differences is high by chance. Texts stand by
    ``low_all`` where that is above 0, then by ``low``. Texts that no image has any score of are
    left out.

    Parameters
    ----------
    found : Sides
        With at least ``FEWEST`` images each.
    texts : sequence of str
    method : str
    """
    inside, outside = found.inside, found.outside
    n, m = inside.scores.n, outside.scores.n
    difference = inside.scores.mean - outside.scores.mean
    said_m = np.any([_said(side) for side in (inside, outside)], axis=0)
    low, high = _welch(found, LEVEL)
    low_all, high_all = _welch(found, LEVEL / max(1, said_m.sum()))
    z = NormalDist().inv_cdf(1 - LEVEL / 2)
    _, share_low, share_high = more_often(inside.first_m, n, outside.first_m, m, z)
    order = np.lexsort([-difference, -low, -np.maximum(low_all, 0)])
    table = pd.DataFrame(
        {
            "method": method,
            "text": list(texts),
            "inside": inside.scores.mean,
            "outside": outside.scores.mean,
            "difference": difference,
            "low": low,
            "high": high,
            "low_all": low_all,
            "high_all": high_all,
            "share_inside": inside.first_m / n,
            "share_outside": outside.first_m / m,
            "share_low": share_low,
            "share_high": share_high,
        }
    )
    table = table.iloc[order[said_m[order]]].reset_index(drop=True)
    return table.assign(rank=np.arange(len(table)))[OVER["over"].names]


def _said(side: Side) -> NDArray[np.bool_]:
    """Texts whose score is not 0 on all images."""
    found: NDArray[np.bool_] = (side.scores.mean != 0) | (side.scores.m2 != 0)
    return found


def _welch(found: Sides, level: float) -> tuple[Floats, Floats]:
    """Both ends of every text's interval of the difference of means."""
    from scipy.special import stdtrit  # long to import, and only now needed

    n, m = found.inside.scores.n, found.outside.scores.n
    whole_m = _variance(combine([found.inside.scores, found.outside.scores]))
    a = np.maximum(_variance(found.inside.scores), whole_m) / n
    b = np.maximum(_variance(found.outside.scores), whole_m) / m
    squared = a + b
    # A text that is the same on all images differs by exactly what it differs by.
    degrees = squared**2 / np.maximum(a**2 / (n - 1) + b**2 / (m - 1), np.finfo(float).tiny)
    half = stdtrit(np.maximum(degrees, 1.0), 1 - level / 2) * np.sqrt(squared)
    difference = found.inside.scores.mean - found.outside.scores.mean
    return difference - half, difference + half


def _variance(scores: Moments) -> Floats:
    """Of each text's score, (M,), divided by n - 1."""
    spread: Floats = scores.m2 / (scores.n - 1)
    return spread


def by_chance(texts: int) -> float:
    """Texts that intervals of their own, one by one, would call over-represented by chance."""
    return texts * LEVEL / 2
