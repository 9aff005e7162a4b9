"""Accuracies with bootstrap intervals: overall, per class, per group, and paired changes.

A reduction like any other: predictions of some images become counts, counts merge, and the table
is made of counts alone. What is held does not grow with the images.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
            "results hold of these images or classes is damaged; validate() names faults of a store"
        )
    return logits.argmax(-1)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """How often ablations of a model were right, counted over images.

    The last axis of the counts is the kind of outcome: wrong before and after the ablation, right
    after it alone, right before it alone, right both times. Row 0 is the model as it is.

    Attributes
    ----------
    classes : (1 + A, C, 4) int64
        Images of every class.
    groups : dict of str to (1 + A, 4) int64
        Images of every group; empty where groups are not known.
    """

    classes: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many were counted."""
        return int(self.classes[0].sum())


def count(
    predicted: np.ndarray, truth: np.ndarray, classes: int, groups: Sequence[str] | None = None
) -> Outcomes:
    """Counts of some images.

    Parameters
    ----------
    predicted : (1 + A, N) int
        Classes; row 0 is the baseline.
    truth : (N,) int
    classes : int
        How many there are.
    groups : N names, optional
    """
    right = predicted == np.asarray(truth)
    outcome = 2 * right[0] + right

    def by(places: np.ndarray, cells: int) -> np.ndarray:
        found = [np.bincount(4 * places + row, minlength=4 * cells) for row in outcome]
        return np.stack(found).reshape(len(outcome), cells, 4)

    if groups is None:
        return Outcomes(by(truth, classes))
    names, places = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    of_groups = by(places, len(names))
    return Outcomes(by(truth, classes), {str(g): of_groups[:, i] for i, g in enumerate(names)})


def add(a: Outcomes, b: Outcomes) -> Outcomes:
    """Counts of the same ablations over the images of both."""
    groups = dict(a.groups)
    for name, counts in b.groups.items():
        groups[name] = groups[name] + counts if name in groups else counts
    return Outcomes(a.classes + b.classes, groups)


def join(found: Sequence[Outcomes]) -> Outcomes:
    """Counts of further ablations of the same images; the baseline's are the first's."""

    def rows(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])

    groups = {g: rows([f.groups[g] for f in found]) for g in found[0].groups}
    return Outcomes(rows([f.classes for f in found]), groups)


def accuracy_table(
    found: Outcomes,
    names: Sequence[str],
    classes: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracies of all images, of each class and of each group, before and after ablations.

    Parameters
    ----------
    found : Outcomes
    names : A names of ablations.
    classes : C names
    resamples : int
        Bootstrap resamples of the images, for percentile intervals of 95%.

    Returns
    -------
    DataFrame
        ``ablation`` ("none" for the baseline), ``scope`` (all, class, group), ``name``, ``n``,
        ``accuracy``, ``low``, ``high``, and the paired ``change`` from the baseline with
        ``change_low``, ``change_high``. Classes without images have no row.
    """
    if not found.images:
        raise ValueError("no images to classify: the subset matches none that is ok")
    held = np.flatnonzero(found.classes[0].sum(1))
    groups = sorted(found.groups)
    cells = pd.DataFrame(
        {
            "scope": ["all", *["class"] * len(held), *["group"] * len(groups)],
            "name": ["all", *(classes[int(c)] for c in held), *groups],
        }
    )
    rng = np.random.default_rng(seed)
    frames = []
    for row, name in enumerate(["none", *names]):
        of_classes = found.classes[row]
        of_groups = [found.groups[g][row] for g in groups]
        counts = np.stack([of_classes.sum(0), *of_classes[held], *of_groups])
        frame = cells.copy()
        frame.insert(0, "ablation", name)
        frames.append(frame.assign(n=counts.sum(1), **_intervals(counts, resamples, rng)))
    table = pd.concat(frames, ignore_index=True)
    if table["low"][0] <= 1 / len(classes):
        warnings.warn(
            f"the baseline gets {table['accuracy'][0]:.1%} of {found.images} images right (95% "
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
