"""Images of a store with the classes and groups that they are of, for views that classify them.

Of many images a sample is taken, the same for every view of the store: runs of images at places
that are spread evenly over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.explorer.library import Library, Opened
from pipeline.explorer.words import directions
from pipeline.repair.groups import NO_VALUE, check_column, namer
from pipeline.subsets import check_where, chosen_rows, shard_rows, spread
from pipeline.texts.classes import Classes, class_means
from pipeline.texts.labels import check_labels
from pipeline.texts.pools import listed_classes, load_classes
from storage import urls
from storage.errors import FacetError
from storage.layout import CONTRIBUTIONS

# Images that are classified, and the fewest shards they are from where there are many.
MOST, SHARDS = 16_384, 16
# Classes that are typed, or that labels are taken for.
TYPED = 200
_NOT_LABELS = {"index", "key", "uri", "offset", "length", "caption", "mask"}


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


def form(here: Opened, asked: Asked) -> Form:
    """What can be asked of a store."""
    return Form(asked, tuple(_columns(here)))


def _by_name(classes: str) -> bool:
    name = classes.strip()
    return name in ("imagenet", "waterbirds") or name.startswith("microworld:")


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return [None if value is None else str(value) for value in column.to_pylist()]


def _columns(here: Opened) -> list[str]:
    fields = here.store.images(0, 1).schema
    return [
        f.name for f in fields if f.name not in _NOT_LABELS and not pa.types.is_floating(f.type)
    ]


def _groups(columns: Sequence[str]) -> str:
    return "group" if "group" in columns else ""
