"""Shares with their intervals, and by how much two of them differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def wilson(count: NDArray, n: int, z: float) -> tuple[NDArray, NDArray]:
    """Wilson's interval of shares: both ends of (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)
    (Wilson 1927)."""
    share, square = count / n, z * z / n
    half = z * np.sqrt(share * (1 - share) / n + square / (4 * n))
    middle = share + square / 2
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def more_often(
    inside: NDArray, n_inside: int, outside: NDArray, n_outside: int, z: float
) -> tuple[NDArray, NDArray, NDArray]:
    """By how much shares differ, with both ends of an interval (Newcombe 1998, method 10).

    With p and q the shares and (l, u) Wilson's interval of each, the ends are
    p − q − √((p − l_p)² + (u_q − q)²) and p − q + √((u_p − p)² + (q − l_q)²).
    """
    p, q = inside / n_inside, outside / n_outside
    (p_low, p_high), (q_low, q_high) = wilson(inside, n_inside, z), wilson(outside, n_outside, z)
    low = p - q - np.sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = p - q + np.sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return p - q, low, high
