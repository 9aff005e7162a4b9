"""What if parts of a model counted more, or less: accuracies with any gains, from one small table.

Logits are linear in the gains (``repair/scores``), so that of each image the logits and what each
part has of them are all that a page needs to follow a slider: the table is made once, and whoever
has it has every edit's logits to the last digit that the job of ablations has.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.classified import GroupRate, Rate, rate, rates, worst
from pipeline.explorer.gains import gains_of, part_names, read_gains, write_gains
from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.explorer.model import NotYet
from pipeline.explorer.scene import (
    MOST,
    Asked,
    Form,
    Scene,
    filled,
    form,
    look,
    read_classes,
    readout,
    rows_of,
)
from pipeline.heads.ablation import Readout, reduced_means
from pipeline.heads.edits import EditError, edit_at, edit_from, write_edit
from pipeline.heads.parts import StoredParts, part_arrays
from pipeline.repair.gains import LATE, Components
from pipeline.repair.scores import Scorer
from pipeline.stats.accuracy import predicted_classes
from storage.errors import FacetError
from storage.reductions import Reductions, find_reductions

# What a page is sent at most, and of how many images; with fewer there is little to be seen.
BYTES, IMAGES, FEWEST = 24 << 20, 4096, 100
# Images that are named whose answer changes.
NAMED = 24


@dataclass(frozen=True, eq=False)
class Table:
    """Logits of images, and what mean-ablating each part would take from them.

    Attributes
    ----------
    scene : Scene
    base_nc : (N, C) float32
        Cosines.
    scores_snc : (S, N, C) float32
        Parts in the order of ``Components``.
    """

    scene: Scene
    base_nc: NDArray[np.float32]
    scores_snc: NDArray[np.float32]

    def edited(self, gains_s: NDArray[np.float64]) -> NDArray[np.float32]:
        """Logits with gains, (N, C)."""
        used_s = gains_s != 1
        away = (1 - gains_s[used_s]).astype(np.float32)
        return self.base_nc - np.tensordot(away, self.scores_snc[used_s], 1)

    def packed(self) -> bytes:
        """What a page is sent: the floats of ``base_nc`` and ``scores_snc``, and then, of each
        image, its class, its group and its number, int32; all little-endian."""
        scene = self.scene
        whole = (scene.truth_n, scene.groups_n, scene.sample.numbers)
        floats = (self.base_nc, self.scores_snc)
        return b"".join(
            [
                *(a.astype("<f4").tobytes() for a in floats),
                *(a.astype("<i4").tobytes() for a in whole),
            ]
        )


@dataclass(frozen=True)
class Figures:
    """How well images are classified.

    Attributes
    ----------
    whole : Rate
    by_class, by_group : tuple of GroupRate
    worst : int or None
        Number of the group with the least accuracy.
    """

    whole: Rate
    by_class: tuple[GroupRate, ...]
    by_group: tuple[GroupRate, ...]
    worst: int | None


@dataclass(frozen=True)
class Start:
    """Gains that may be begun with."""

    name: str
    gains: str


@dataclass(frozen=True)
class Change:
    """An image that is given another class with the gains than without, by numbers of classes."""

    index: int
    truth: int
    before: int
    after: int


@dataclass(frozen=True)
class Picked:
    """One image's logits, cosines of the published scale.

    Attributes
    ----------
    index, truth : int
    before, after : tuple of float
        A logit a class.
    """

    index: int
    truth: int
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True)
class WhatIf:
    """A model's accuracies with gains.

    Attributes
    ----------
    form : Form
    problem : str
        Why there is nothing to be seen yet; empty otherwise.
    missing : str
        The command that finds what is lacking.
    sample, means : str
        Which images are classified, and which the means are over, in words.
    images : int
    classes, groups, parts : tuple of str
        Names.
    layers, heads : int
        The first layers · heads parts are the heads, by layer.
    properties : dict of str to tuple of int
        Parts that carry a label.
    starts : tuple of Start
    gains : str
        As addresses have them.
    gains_s : tuple of float
    before, after : Figures or None
    changes : int
        Images that are given another class.
    changed : tuple of Change
        The first of them.
    picked : Picked or None
    """

    form: Form
    problem: str = ""
    missing: str = ""
    sample: str = ""
    means: str = ""
    images: int = 0
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    layers: int = 0
    heads: int = 0
    properties: dict[str, tuple[int, ...]] | None = None
    starts: tuple[Start, ...] = ()
    gains: str = ""
    gains_s: tuple[float, ...] = ()
    before: Figures | None = None
    after: Figures | None = None
    changes: int = 0
    changed: tuple[Change, ...] = ()
    picked: Picked | None = None


def what_if(
    library: Library, here: Opened, asked: Asked, gains: str = "", image: int | None = None
) -> WhatIf:
    """Accuracies with gains, before and after.

    Parameters
    ----------
    library : Library
    here : Opened
    asked : Asked
    gains : str
        As addresses have them.
    image : int, optional
        Whose logits are wanted; one of the sample's. By default one that the model takes for
        another, if there is one.

    Raises
    ------
    NotHere
        If the image is none of the sample.
    FacetError
        If gains cannot be read, or what was asked for cannot be classified; what is unasked says so
        in ``problem``.
    """
    meta = here.meta
    components = Components(meta.layers, meta.heads)
    gains_s = read_gains(gains, components)
    if lacking := {"heads", "mlps"} - set(meta.components):
        words = f"the store keeps no contributions of {' and '.join(sorted(lacking))}"
        return WhatIf(form(here, asked), words)
    means = whole_means(here)
    if means is None:
        return WhatIf(
            form(here, asked),
            "the means of all parts are not known, and what a gain takes away is replaced by them",
            here.hint("reduce"),
        )
    try:
        found = table(library, here, asked)
    except NotYet:
        raise  # it can be answered a little later
    except FacetError as error:
        if asked.classes:
            raise
        return WhatIf(form(here, asked), str(error))
    scene = found.scene
    before_n, edited_nc = predicted_classes(found.base_nc), found.edited(gains_s)
    after_n = predicted_classes(edited_nc)
    changed = np.flatnonzero(before_n != after_n)
    numbers, truth_n = scene.sample.numbers, scene.truth_n
    at = _picked(scene, before_n, image)
    return WhatIf(
        form(here, scene.asked), "", "", scene.sample.words, f"all {means.count('heads'):,} images",
        len(truth_n), scene.classes.names, scene.groups, tuple(part_names(components)),
        meta.layers, meta.heads, _properties(here), starts(here, components),
        write_gains(gains_s, components), tuple(gains_s.tolist()),
        _figures(scene, before_n), _figures(scene, after_n), len(changed),
        tuple(
            Change(int(numbers[i]), int(truth_n[i]), int(before_n[i]), int(after_n[i]))
            for i in changed[:NAMED]
        ),
        Picked(
            int(numbers[at]), int(truth_n[at]),
            tuple(found.base_nc[at].tolist()), tuple(edited_nc[at].tolist()),
        ),
    )  # fmt: skip


def table(library: Library, here: Opened, asked: Asked) -> Table:
    """The table of a sample of images.

    Raises
    ------
    FacetError
        If there are too many classes for as many images as it takes to see anything.
    """
    meta = here.meta
    components = Components(meta.layers, meta.heads)
    full = filled(here, asked)
    classes = len(read_classes(full.classes).names)
    images = min(IMAGES, BYTES // (4 * (components.count + 1) * classes))
    if images < FEWEST:
        most = BYTES // (4 * (components.count + 1) * FEWEST)
        raise FacetError(
            f"{classes} classes are too many for gains that move at once: name {most} at most"
        )

    def make() -> Table:
        means = whole_means(here)
        if means is None:
            raise FacetError("the means of all parts of this store are not known yet")
        scene = look(here, full, images / MOST)
        model = here.store.model()
        maps: Any = SimpleNamespace(  # what ModelMaps has, which brings torch
            **{"head_map": np.zeros((meta.layers, 0, 0, meta.embed)), "bias_map": None}
            | {str(name): array.values.astype(np.float64) for name, array in model.items()}
        )
        scorer = Scorer(
            components, reduced_means(means), Readout(maps, readout(library, here, scene.classes))
        )
        rows = rows_of(here, scene, part_arrays(meta))
        parts = StoredParts.of(cast(dict[str, np.ndarray], rows))
        every = np.ones(components.count, bool)
        return Table(scene, scorer.logits(parts), scorer.scores(parts, every))

    return here.cached(("what if", full, images), make)


def edit_file(here: Opened, gains: str) -> bytes:
    """Gains as a file that other jobs take.

    Raises
    ------
    FacetError
        If they cannot be read, or the means of all parts are not known.
    """
    meta = here.meta
    components = Components(meta.layers, meta.heads)
    gains_s = read_gains(gains, components)
    means = whole_means(here)
    if means is None:
        raise FacetError("the means of all parts of this store are not known yet")
    heads_lh, blocks_s, bias_l = components.split(gains_s)
    said = write_gains(gains_s, components)
    moved = {
        "heads": {(int(i), int(h)): float(heads_lh[i, h]) for i, h in np.argwhere(heads_lh != 1)},
        "blocks": {int(i): float(blocks_s[i]) for i in np.flatnonzero(blocks_s != 1)},
        "attention_bias": {int(i): float(bias_l[i]) for i in np.flatnonzero(bias_l != 1)},
    }
    name = f"gains {said[:80] + (' …' if len(said) > 80 else '')}" if said else "nothing changed"
    return write_edit(edit_from(here.store, means, name, **cast(Any, moved)))


def whole_means(here: Opened) -> Reductions | None:
    """Reductions of all images, with the means of all parts; None where there are none."""
    store = here.store
    found = here.cached("means", lambda: find_reductions(store.url, store.meta, None))
    needed = ("heads_mean", "mlps_mean", "inverse_scale_mean")
    return found if found is not None and all(name in found.data for name in needed) else None


def starts(here: Opened, components: Components) -> tuple[Start, ...]:
    """Gains that are kept, or published."""
    found = [Start("as the model is", "")]
    for result in here.results("repair"):
        try:
            edit = edit_at(f"{result.url}/{result.provenance['edit']}")
        except EditError:
            continue  # its files are no longer whole, which is said where they are shown
        if edit.weights == here.meta.weights_digest:
            found.append(Start(edit.name, write_gains(gains_of(edit), components)))
    if components.layers > LATE:
        published = components.published(np.ones(components.count))
        name = f"only the last {LATE} layers of attention, all else at its mean"
        found.append(Start(name, write_gains(published, components)))
    return tuple(found)


def _properties(here: Opened) -> dict[str, tuple[int, ...]]:
    """Parts that carry each label."""
    labels, heads = here.latest("label"), here.meta.heads
    found: dict[str, list[int]] = defaultdict(list)
    for row in [] if labels is None else labels.table("labels").to_pylist():
        if row["label"] is not None:
            found[row["label"]].append(row["layer"] * heads + row["head"])
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def _figures(scene: Scene, predicted_n: NDArray[np.int64]) -> Figures:
    right_n = predicted_n == scene.truth_n
    by_group = rates(right_n, scene.groups_n, scene.groups)
    return Figures(
        rate(len(right_n), int(right_n.sum())),
        rates(right_n, scene.truth_n, scene.classes.names),
        by_group,
        worst(by_group),
    )


def _picked(scene: Scene, before_n: NDArray[np.int64], image: int | None) -> int:
    numbers = scene.sample.numbers
    if image is None:
        return int(np.argmax(before_n != scene.truth_n))
    at = int(np.searchsorted(numbers, image))
    if at == len(numbers) or numbers[at] != image:
        raise NotHere(f"image {image} is not among the images that are classified here")
    return at
