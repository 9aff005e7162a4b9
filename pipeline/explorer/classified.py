"""How a model classifies the images of a store: its accuracies, by class and group, and mistakes.

An image's logits are the cosines of its embedding with those of the classes, as the job that
ablates has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.explorer.scene import Asked, Form, Scene, form, look, readout, rows_of
from pipeline.stats.accuracy import predicted_classes
from pipeline.stats.shares import wilson
from storage.errors import FacetError

# Classes of a matrix that can be read.
MATRIX = 32
# Mistakes, and images of one kind of them, that are named.
MISTAKES, NAMED = 40, 60
# Below so many images a group's accuracy says little.
FEW = 10
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Rate:
    """A share of images that are classified rightly.

    Attributes
    ----------
    n, right : int
        Images.
    share, low, high : float
        ``right / n`` and its 95% interval (``shares.wilson``).
    """

    n: int
    right: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupRate:
    """A group of images, or a class.

    Attributes
    ----------
    name : str
    rate : Rate
    few : bool
        Whether it has too few images for its share to say much.
    """

    name: str
    rate: Rate
    few: bool


@dataclass(frozen=True)
class Mistake:
    """Images of a class that were taken for another, or rightly for their own.

    Attributes
    ----------
    truth, predicted : int
        Numbers of classes.
    images : int
    share : float
        Of the images of the class.
    """

    truth: int
    predicted: int
    images: int
    share: float


@dataclass(frozen=True)
class Told:
    """An image, and by how much the class it was given is above its own.

    Attributes
    ----------
    index : int
    margin : float
        Difference of cosines; of its own class, to the next one.
    """

    index: int
    margin: float


@dataclass(frozen=True)
class Cell:
    """The images of one cell of the matrix, those that were told most clearly first.

    ``text`` and ``against`` are plain prompts of the predicted and of the true class.
    """

    truth: int
    predicted: int
    text: str
    against: str
    count: int
    images: tuple[Told, ...]


@dataclass(frozen=True)
class Classified:
    """What a model takes the images of a store for.

    Attributes
    ----------
    form : Form
    problem : str
        Why nothing could be classified unasked; empty otherwise.
    sample : str
        Which images were classified, in words.
    classes : tuple of str
    whole : Rate
    by_class, by_group : tuple of GroupRate
    worst : int or None
        Number of the group with the least accuracy.
    mistakes : tuple of Mistake
        The most frequent first.
    confusion : tuple of tuple of int, or None
        Images of each class (rows) that were taken for each (columns); None of many classes.
    cell : Cell or None
    """

    form: Form
    problem: str = ""
    sample: str = ""
    classes: tuple[str, ...] = ()
    whole: Rate | None = None
    by_class: tuple[GroupRate, ...] = ()
    by_group: tuple[GroupRate, ...] = ()
    worst: int | None = None
    mistakes: tuple[Mistake, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    cell: Cell | None = None


def classified(
    library: Library, here: Opened, asked: Asked, cell: tuple[int, int] | None = None
) -> Classified:
    """Classify images, and count.

    Parameters
    ----------
    library : Library
    here : Opened
    asked : Asked
    cell : tuple of (truth, predicted), optional
        Whose images are wanted.

    Raises
    ------
    NotHere
        If there is no such cell.
    FacetError
        If what was asked for cannot be classified; what is unasked says so in ``problem``.
    """
    try:
        scene = look(here, asked)
    except FacetError as error:
        if asked.classes:
            raise
        return Classified(form(here, asked), str(error))
    logits_nc = logits(library, here, scene)
    predicted_n = predicted_classes(logits_nc)
    names = scene.classes.names
    if cell is not None and not all(0 <= c < len(names) for c in cell):
        raise NotHere(f"there is no cell {cell[0]}, {cell[1]}: classes are 0-{len(names) - 1}")
    confusion_cc = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion_cc, (scene.truth_n, predicted_n), 1)
    right_n = predicted_n == scene.truth_n
    groups = rates(right_n, scene.groups_n, scene.groups)
    return Classified(
        form(here, scene.asked), "", scene.sample.words, names,
        rate(len(right_n), int(right_n.sum())),
        rates(right_n, scene.truth_n, names),
        groups, worst(groups), _mistakes(confusion_cc),
        tuple(map(tuple, confusion_cc.tolist())) if len(names) <= MATRIX else None,
        None if cell is None else _cell(scene, logits_nc, predicted_n, *cell),
    )  # fmt: skip


def rate(n: int, right: int) -> Rate:
    """A share with its interval; not a number without images."""
    if not n:
        return Rate(0, 0, *[float("nan")] * 3)
    low, high = wilson(np.array(right), n, _Z)
    return Rate(n, right, right / n, max(0.0, float(low)), min(1.0, float(high)))


def rates(
    right_n: NDArray[np.bool_], of_n: NDArray[np.int64], names: Sequence[str]
) -> tuple[GroupRate, ...]:
    """Shares of groups."""
    n_g = np.bincount(of_n, minlength=len(names)).tolist()
    right_g = np.bincount(of_n[right_n], minlength=len(names)).tolist()
    return tuple(
        GroupRate(name, rate(n, right), n < FEW)
        for name, n, right in zip(names, n_g, right_g, strict=True)
    )


def worst(groups: Sequence[GroupRate]) -> int | None:
    """The group with the least share, the first among equals; None where there are no images."""
    shares = [(group.rate.share, i) for i, group in enumerate(groups) if group.rate.n]
    return min(shares)[1] if shares else None


def logits(library: Library, here: Opened, scene: Scene) -> NDArray[np.float32]:
    """Cosines of the images with the classes, (N, C) float32."""

    def make() -> NDArray[np.float32]:
        embedding_ne = rows_of(here, scene, ["embedding"])["embedding"]
        norm_n1 = np.linalg.norm(embedding_ne.astype(np.float64), axis=1, keepdims=True)
        unit_ne = (embedding_ne / norm_n1).astype(np.float32)
        found: NDArray[np.float32] = unit_ne @ readout(library, here, scene.classes).T
        return found

    return here.cached(("logits", scene.asked), make)


def _mistakes(confusion_cc: NDArray[np.int64]) -> tuple[Mistake, ...]:
    wrong_cc = confusion_cc - np.diag(np.diag(confusion_cc))
    order = np.argsort(-wrong_cc, axis=None, kind="stable")[:MISTAKES]
    places = np.stack(np.unravel_index(order, wrong_cc.shape), 1).tolist()
    size_c = confusion_cc.sum(1)
    return tuple(
        Mistake(a, b, int(wrong_cc[a, b]), float(wrong_cc[a, b] / size_c[a]))
        for a, b in places
        if wrong_cc[a, b]
    )


def _cell(
    scene: Scene, logits_nc: np.ndarray, predicted_n: np.ndarray, truth: int, predicted: int
) -> Cell:
    at = np.flatnonzero((scene.truth_n == truth) & (predicted_n == predicted))
    margin_n = logits_nc[at, predicted] - logits_nc[at, truth]
    if truth == predicted:  # how far the class is above the next one
        margin_n = logits_nc[at, truth] - np.delete(logits_nc[at], truth, 1).max(1)
    order = np.argsort(-margin_n, kind="stable")[:NAMED]
    told = (Told(int(scene.sample.numbers[at[i]]), float(margin_n[i])) for i in order)
    text, against = (_plain(scene.classes.prompts[c]) for c in (predicted, truth))
    return Cell(truth, predicted, text, against, len(at), tuple(told))


def _plain(prompts: Sequence[str]) -> str:
    """The prompt that says least besides the class."""
    photos = (prompt for prompt in prompts if prompt.startswith("a photo of a "))
    return min(photos, key=len, default=prompts[0])
