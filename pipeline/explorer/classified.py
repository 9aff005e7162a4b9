"""How a model classifies the images of a store: its accuracies, by class and group, and mistakes.

An image's logits are the cosines of its embedding with those of the classes, as the job that
ablates has them. Of many images a sample is taken, the same for every view of the store: runs of
images at places that are spread evenly over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.explorer.region import wilson
from pipeline.explorer.words import directions
from pipeline.repair.groups import NO_VALUE, check_column, namer
from pipeline.stats.accuracy import predicted_classes
from pipeline.subsets import check_where, chosen_rows, shard_rows, spread
from pipeline.texts.classes import Classes, class_means
from pipeline.texts.labels import check_labels
from pipeline.texts.pools import listed_classes, load_classes
from storage import urls
from storage.errors import FacetError
from storage.layout import CONTRIBUTIONS

# Images that are classified, and the fewest shards they are from where there are many.
MOST, SHARDS = 16_384, 16
# Classes that are typed, or that labels are taken for; of a matrix that can be read.
TYPED, MATRIX = 200, 32
# Mistakes, and images of one kind of them, that are named.
MISTAKES, NAMED = 40, 60
# Below so many images a group's accuracy says little.
FEW = 10
_NOT_LABELS = {"index", "key", "uri", "offset", "length", "caption", "mask"}
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Asked:
    """What is classified, as addresses have it.

    Attributes
    ----------
    classes : str
        ``imagenet``, ``waterbirds``, ``microworld:shape``, or names of classes with commas or line
        ends between them, ``label=name`` where labels are not the names.
    label_column : str
        Says what an image shows.
    groups : str
        The column that makes a group of images together with the class; empty: classes alone.
    where : str
        Which images; empty: all.
    """

    classes: str
    label_column: str
    groups: str
    where: str


@dataclass(frozen=True)
class Rate:
    """A share of images that are classified rightly.

    Attributes
    ----------
    n, right : int
        Images.
    share, low, high : float
        ``right / n`` and its 95% interval (``region.wilson``).
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
    """The images of one cell of the matrix, those that were told most clearly first."""

    truth: int
    predicted: int
    count: int
    images: tuple[Told, ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of a store, ok and in a subset, and what they show.

    Attributes
    ----------
    numbers : (N,) int64
    labels, values : tuple of str or None
        Of the label's column and of the groups'; of the latter all None where there is none.
    shards : tuple of (shard, (images up to the last one,) bool)
        Which of each shard's images they are.
    finished : int
        Shards that there are.
    whole : bool
        Whether no image that fits was left out.
    """

    numbers: NDArray[np.int64]
    labels: tuple[str | None, ...]
    values: tuple[str | None, ...]
    shards: tuple[tuple[int, NDArray[np.bool_]], ...]
    finished: int
    whole: bool

    @property
    def words(self) -> str:
        """How many they are, and of what they are a sample."""
        n = len(self.numbers)
        if self.whole:
            return f"all {n:,} images that fit"
        return f"a sample of {n:,} images, from {len(self.shards):,} of {self.finished:,} shards"


@dataclass(frozen=True, eq=False)
class Scene:
    """Images with the classes and groups they are of.

    Attributes
    ----------
    asked : Asked
        With what was left open filled in.
    classes : Classes
    sample : Sample
    truth_n, groups_n : (N,) int64
        Class, and number of the group.
    groups : tuple of str
        Their names.
    """

    asked: Asked
    classes: Classes
    sample: Sample
    truth_n: NDArray[np.int64]
    groups_n: NDArray[np.int64]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """What can be asked.

    Attributes
    ----------
    asked : Asked
    columns : tuple of str
        Of the image table, that may hold labels or groups.
    """

    asked: Asked
    columns: tuple[str, ...]


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


def look(here: Opened, asked: Asked, share: float = 1.0) -> Scene:
    """Images with what they show.

    Parameters
    ----------
    here : Opened
    asked : Asked
    share : float
        How much of the sample is wanted.
    """

    def find() -> Scene:
        full = filled(here, asked)
        classes = read_classes(full.classes)
        some = here.cached(
            ("sample", full.label_column, full.groups, full.where, share),
            lambda: sample(here, full, share),
        )
        truth_n = classes.truth(some.labels)
        if not full.groups:
            return Scene(full, classes, some, truth_n, truth_n, classes.names)
        values = [NO_VALUE if v is None else v for v in some.values]
        of = list(zip(truth_n.tolist(), values, strict=True))
        numbers = {group: i for i, group in enumerate(sorted(set(of)))}
        name = namer(numbers, classes)
        groups_n = np.array([numbers[group] for group in of], np.int64)
        return Scene(full, classes, some, truth_n, groups_n, tuple(map(name, numbers)))

    return here.cached(("scene", asked, share), find)


def filled(here: Opened, asked: Asked) -> Asked:
    """What was asked, with classes and groups where they were left open.

    Those of the repair or ablation that was asked for last, if everybody knows them by name; else
    the labels themselves, and the column ``group`` if there is one.
    """
    if asked.classes:
        return asked
    columns = _columns(here)
    for result in [*here.results("repair"), *here.results("ablate")]:
        config = result.config
        if _by_name(config["classes"]) and config["label_column"] in columns:
            groups = asked.groups or config.get("groups") or _groups(columns)
            where = asked.where or config["where"] or ""
            return Asked(config["classes"], config["label_column"], groups, where)
    some = here.cached(
        ("sample", asked.label_column, "", asked.where, 1.0), lambda: sample(here, asked, 1.0)
    )
    labels = sorted({label for label in some.labels if label is not None})
    if not 2 <= len(labels) <= TYPED:
        raise FacetError(
            f"the column {asked.label_column} has {len(labels)} different labels here: say which "
            "classes there are"
        )
    listed = "\n".join(labels)
    return Asked(listed, asked.label_column, asked.groups or _groups(columns), asked.where)


def read_classes(asked: str) -> Classes:
    """Classes as addresses have them: a set by name, or names. No file is ever opened.

    Raises
    ------
    FacetError
        If there are too many, or fewer than two.
    """
    if _by_name(asked):
        return load_classes(asked.strip())
    split = asked.splitlines() if "\n" in asked else asked.split(",")
    lines = ["\t".join(part.strip() for part in one.split("=", 1)) for one in split if one.strip()]
    if len(lines) > TYPED:
        raise FacetError(f"{len(lines)} classes: give {TYPED} at most")
    return listed_classes(f"the list of classes {asked[:40]!r}", lines)


def _by_name(classes: str) -> bool:
    name = classes.strip()
    return name in ("imagenet", "waterbirds") or name.startswith("microworld:")


def sample(here: Opened, asked: Asked, share: float) -> Sample:
    """Images that are ok and fit, of which no more than so many are taken, and their labels."""
    store, where = here.store, asked.where or None
    check_labels(store, asked.label_column)
    if asked.groups:
        check_column(store, asked.groups)
    check_where(store, where)
    done = sorted(store.done_shards())
    shards = spread(done, max(SHARDS, MOST // store.meta.shard_size))
    most = max(1, int(MOST * share) // max(1, len(shards)))
    whole, numbers, kept = len(shards) == len(done), [np.zeros(0, np.int64)], []
    labels: list[str | None] = []
    values: list[str | None] = []
    for shard in shards:
        rows, chosen = shard_rows(store, shard, where)
        whole &= len(rows) <= most
        rows = rows.slice(0, most)
        at = np.flatnonzero(chosen)[:most]
        if not len(at):
            continue
        chosen = chosen[: at[-1] + 1]
        kept.append((shard, chosen))
        numbers.append(rows["index"].to_numpy())
        labels += _texts(rows[asked.label_column])
        values += _texts(rows[asked.groups]) if asked.groups else [None] * len(at)
    if not kept:
        raise FacetError("no image that is ok fits `where`, as far as was looked")
    return Sample(
        np.concatenate(numbers), tuple(labels), tuple(values), tuple(kept), len(done), whole
    )


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return [None if value is None else str(value) for value in column.to_pylist()]


def rows_of(here: Opened, scene: Scene, names: Sequence[str]) -> dict[str, NDArray[np.floating]]:
    """What the store holds of the images, by array, as stored."""
    store = here.store
    data: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    found: dict[str, list[NDArray[np.floating]]] = {name: [] for name in names}
    for shard, chosen in scene.sample.shards:
        for _, rows in chosen_rows(data, names, store.meta.rows(shard)[0], chosen):
            for name in names:
                found[name].append(rows[name])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def readout(library: Library, here: Opened, classes: Classes) -> NDArray[np.float32]:
    """Unit embeddings of classes, (C, E) float32; the model is asked for those that are new."""

    def make() -> NDArray[np.float32]:
        return class_means(directions(library, here, classes.flat), classes)

    return here.cached(("readout", classes.prompts), make)


def logits(library: Library, here: Opened, scene: Scene) -> NDArray[np.float32]:
    """Cosines of the images with the classes, (N, C) float32."""

    def make() -> NDArray[np.float32]:
        embedding_ne = rows_of(here, scene, ["embedding"])["embedding"]
        norm_n1 = np.linalg.norm(embedding_ne.astype(np.float64), axis=1, keepdims=True)
        unit_ne = (embedding_ne / norm_n1).astype(np.float32)
        found: NDArray[np.float32] = unit_ne @ readout(library, here, scene.classes).T
        return found

    return here.cached(("logits", scene.asked), make)


def form(here: Opened, asked: Asked) -> Form:
    """What can be asked of a store."""
    return Form(asked, tuple(_columns(here)))


def _columns(here: Opened) -> list[str]:
    fields = here.store.images(0, 1).schema
    return [
        f.name for f in fields if f.name not in _NOT_LABELS and not pa.types.is_floating(f.type)
    ]


def _groups(columns: Sequence[str]) -> str:
    return "group" if "group" in columns else ""


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
    return Cell(truth, predicted, len(at), tuple(told))
