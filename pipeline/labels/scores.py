"""Scores of labels over a model's heads, and what needs no judge.

Entanglement and association are named after "Quantifying and Enabling the Interpretability of
CLIP-like Models" (2024, section 4), whose counting is not told in full. Here they are: the share of
heads whose label another head has, too; the share of heads with at least three of the first five
texts that fit the label. A head without a label counts among the heads, and as neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .choices import ENOUGH, FIRST


def entanglement(labels: Sequence[str | None]) -> float:
    """Share of heads whose label another head has."""
    count = Counter(label for label in labels if label is not None)
    return sum(n for n in count.values() if n > 1) / len(labels)


def association(fitting: Sequence[int]) -> float:
    """Share of heads with at least ``ENOUGH`` texts that fit."""
    return sum(n >= ENOUGH for n in fitting) / len(fitting)


def consistent(fitting: Sequence[int]) -> list[float]:
    """Share of heads at each number of texts that fit, from 0 to ``FIRST``."""
    count = Counter(fitting)
    return [count[n] / len(fitting) for n in range(FIRST + 1)]


def overlaps(directions_bre: NDArray) -> NDArray[np.float64]:
    """How far the spans of heads' texts are one: the trace of the product of their projectors.

    Parameters
    ----------
    directions_bre : (B, R, E) float
        Orthonormal rows of every head; a row of zeros is none.

    Returns
    -------
    (B, B) float64
        tr(P_i P_j) over the smaller of the two ranks: 1 where one span holds the other, 0 where
        they are orthogonal, or one is empty.
    """
    rows = np.asarray(directions_bre, np.float64)
    b, r, e = rows.shape
    flat = rows.reshape(b * r, e)
    traces = ((flat @ flat.T) ** 2).reshape(b, r, b, r).sum((1, 3))
    ranks = (rows**2).sum(2).round().sum(1)
    smaller = np.minimum.outer(ranks, ranks)
    return traces / np.where(smaller > 0, smaller, 1.0)


def agreement(
    labels: Sequence[str | None], roles: Sequence[str], variance: NDArray
) -> tuple[float, float]:
    """Share of heads whose label is their role, and the same with heads counted by variance."""
    right = np.array([label == role for label, role in zip(labels, roles, strict=True)], float)
    total = float(np.sum(variance))
    return float(right.mean()), float(right @ variance / total) if total > 0 else float("nan")
