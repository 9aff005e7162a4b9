"""The published protocol as plain loops over pictures and pixels, straight from its description."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score


def plain_bilinear(map_hw: NDArray, size: tuple[int, int]) -> NDArray:
    """Between the centres of the patches; past the outermost centres, as there."""

    def between(at: int, pixels: int, patches: int) -> tuple[int, int, float]:
        place = min(max((at + 0.5) * patches / pixels - 0.5, 0.0), patches - 1.0)
        low = math.floor(place)
        return low, min(low + 1, patches - 1), place - low

    wide = np.empty(size)
    for y in range(size[0]):
        up, down, dy = between(y, size[0], map_hw.shape[0])
        for x in range(size[1]):
            left, right, dx = between(x, size[1], map_hw.shape[1])
            above = (1 - dx) * map_hw[up, left] + dx * map_hw[up, right]
            below = (1 - dx) * map_hw[down, left] + dx * map_hw[down, right]
            wide[y, x] = (1 - dy) * above + dy * below
    return wide


def plain_relevance(map_hw: NDArray, size: tuple[int, int], clipped: bool) -> NDArray:
    wide = plain_bilinear(map_hw, size)
    if clipped:
        wide = np.maximum(wide, 0)
    spread = wide.max() - wide.min()
    if np.ptp(map_hw) == 0 or spread == 0:
        return np.zeros(size)
    return (wide - wide.min()) / spread


@dataclass
class PlainScores:
    counted: int
    correct: int
    intersection: list[int]
    union: list[int]
    average_precision: float


def plain_score(relevance: NDArray, mask: NDArray, threshold: float | None) -> PlainScores:
    above = relevance.mean(dtype=np.float64).astype(relevance.dtype)
    above = above if threshold is None else threshold
    scores = PlainScores(0, 0, [0, 0], [0, 0], math.nan)
    truth, pair = [], []
    for r, m in zip(relevance.ravel(), mask.ravel(), strict=True):
        if m == 255:
            continue
        found = bool(r > above)
        scores.counted += 1
        scores.correct += found == bool(m)
        for side in (False, True):
            scores.intersection[side] += (found == side) and (bool(m) == side)
            scores.union[side] += (found == side) or (bool(m) == side)
        truth.append([1 - m, m])
        pair.append([1 - r, r])
    if truth:
        scores.average_precision = average_precision_score(np.ravel(truth), np.ravel(pair))
    return scores


def plain_figures(scored: list[PlainScores]) -> dict[str, float]:
    """Of a data set: sums over pictures, but for the mean of the average precisions."""
    correct, counted = sum(s.correct for s in scored), sum(s.counted for s in scored)
    iou = [
        sum(s.intersection[side] for s in scored) / sum(s.union[side] for s in scored)
        for side in (0, 1)
    ]
    return {
        "accuracy": correct / counted,
        "iou_background": iou[0],
        "iou_foreground": iou[1],
        "miou": (iou[0] + iou[1]) / 2,
        "map": sum(s.average_precision for s in scored) / len(scored),
    }
