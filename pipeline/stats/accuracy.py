"""Accuracies with bootstrap intervals: overall, per class, per group, and paired changes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from storage.errors import NotFinite


class ChanceWarning(UserWarning):
    """The model does no better than guessing, so ablations of it say nothing."""


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """The class of the largest logit along the last axis, int64; the first among equals.

    Raises
    ------
    NotFinite
        If a logit is NaN or infinite, which would pass for a class.
    """
    if lost := int((~np.isfinite(logits)).sum()):
        raise NotFinite(
            f"{lost:,} of {logits.size:,} logits are NaN or infinite: what the store or its "
            "results hold of these images or classes is damaged; `validate` names faults of a store"
        )
    return logits.argmax(-1)


def accuracy_table(
    predicted: np.ndarray,
    names: Sequence[str],
    truth: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracies of all images, of each class and of each group, before and after ablations.

    Parameters
    ----------
    predicted : (1 + A, N) int
        As ``predict`` gives them; row 0 is the baseline.
    names : A names of ablations.
    truth : (N,) int
    classes : C names
    groups : N names, optional
    resamples : int
        Bootstrap resamples of the images, for percentile intervals of 95%.

    Returns
    -------
    DataFrame
        ``ablation`` ("none" for the baseline), ``scope`` (all, class, group), ``name``, ``n``,
        ``accuracy``, ``low``, ``high``, and the paired ``change`` from the baseline with
        ``change_low``, ``change_high``. Classes without images have no row.
    """
    right = predicted == np.asarray(truth)
    if right.shape[1] == 0:
        raise ValueError("no images to classify: the subset matches none that is ok")
    cells = [("all", "all", np.ones(right.shape[1], bool))]
    for c in np.unique(truth):
        cells.append(("class", classes[c], truth == c))
    if groups is not None:
        held = np.asarray(groups)
        cells += [("group", str(g), held == g) for g in sorted(set(groups))]
    members = np.stack([mask for _, _, mask in cells]).astype(np.int64)
    rng = np.random.default_rng(seed)
    frames = []
    for name, after in zip(["none", *names], right, strict=True):
        outcome = 2 * right[0] + after  # 4 kinds of image: right before, right after
        counts = members @ (outcome[:, None] == np.arange(4))
        frame = pd.DataFrame({"scope": [c[0] for c in cells], "name": [c[1] for c in cells]})
        frame.insert(0, "ablation", name)
        frames.append(frame.assign(n=counts.sum(1), **_intervals(counts, resamples, rng)))
    table = pd.concat(frames, ignore_index=True)
    if table["low"][0] <= 1 / len(classes):
        warnings.warn(
            f"the baseline gets {table['accuracy'][0]:.1%} of {right.shape[1]} images right (95% "
            f"interval from {table['low'][0]:.1%}); guessing among {len(classes)} classes gets "
            f"{1 / len(classes):.1%}: ablations of it say nothing. Are the labels, the classes and "
            "the weights the right ones?",
            ChanceWarning,
            stacklevel=2,
        )
    return table


def _intervals(
    counts: np.ndarray, resamples: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Figures and 95% bootstrap intervals of cells from their counts of outcomes (cells, 4).

    Resampling images with replacement draws these counts from a multinomial, exactly.
    """
    n = counts.sum(1)
    drawn = rng.multinomial(n, counts / n[:, None], size=(resamples, len(n)))
    figures: dict[str, np.ndarray] = {}
    for name, weights in (("accuracy", [0, 1, 0, 1]), ("change", [0, 1, -1, 0])):
        low, high = np.quantile(drawn @ np.array(weights) / n, [0.025, 0.975], axis=0)
        prefix = "" if name == "accuracy" else "change_"
        figures |= {
            name: counts @ np.array(weights) / n,
            f"{prefix}low": low,
            f"{prefix}high": high,
        }
    return figures
