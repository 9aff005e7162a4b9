"""The page of a store: whatever its results have found, read from their tables alone.

Nothing that takes long is computed, and what is read and shown does not grow with the images: a
page has at most ``PICTURES`` images of the store and ``NEURONS`` neurons with their top images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import pandas as pd
from markupsafe import Markup

from pipeline import status
from pipeline.between.answers import aligned
from pipeline.heads.answers import compared_sets, described_heads
from pipeline.heads.describe import Head
from pipeline.heads.roles import KnownRoles
from pipeline.heads.shares import shares
from pipeline.heatmaps.answers import segmented
from pipeline.heatmaps.found import read as read_heatmaps
from pipeline.heatmaps.sheet import Sheet
from pipeline.identity import over
from pipeline.labels.answers import labelled
from pipeline.labels.found import JOB as LABEL
from pipeline.models import ModelError, VisionModel
from pipeline.neurons.about import NeuronReader
from pipeline.neurons.answers import Picked, codes_of, picked, terms
from pipeline.neurons.coding import FoundCodes, read_codes
from pipeline.repair.answers import repaired
from pipeline.search.found import Found
from pipeline.subsets import spread
from pipeline.texts.encoding import store_model
from storage.errors import FacetError
from storage.reductions import all_reductions
from storage.results import Result, finished_results
from storage.store import Store

from . import (
    between,
    extraction,
    heads,
    heatmaps,
    labels,
    neurons,
    notes,
    search,
    segmentation,
    sentences,
    two_sets,
)
from .html import Made, Section, page, section
from .pictures import picture
from .repair import repair_section

# Images that shares and histograms are over, about.
READ = 2000
# Neurons that are shown in pictures, and top images of each where the weights are not at hand.
NEURONS, TOP_IMAGES = 8, 8
# Pictures whose heat maps are shown; pairs of sets that are compared; searches.
HEATMAPS = PAIRS = SEARCHES = 3
# Heads whose first texts are shown in images, and images of each.
PICTURED, OF_TEXT = 8, 4

Typed = Callable[[str, Mapping[str, Any]], str]


@dataclass(frozen=True, eq=False)
class Reader:
    """A store's results, for the page.

    Attributes
    ----------
    store : Store
    typed : callable
        The command that a job with a configuration is run by.
    following : dict of str to str
        What to type for what is not found yet, by job.
    pretrained : str or None
        The weights file, if it is no longer where it was.
    """

    store: Store
    typed: Typed
    following: Mapping[str, str]
    pretrained: str | None = None
    _kept: dict[str, list[Result]] = field(default_factory=dict)

    def results(self, job: str) -> list[Result]:
        """Finished results of a job, the one that was asked for last first."""
        if job not in self._kept:
            place = self.store.data if job == "extract" else self.store.url
            self._kept[job] = finished_results(place, job)[::-1]
        return self._kept[job]

    def made(self, result: Result) -> Made:
        """How a result came to be."""
        job = result.job.replace("_", "-")
        return Made(self.typed(job, result.config), when(result.provenance.get("finished")))

    @cached_property
    def now(self) -> dict[str, Any]:
        """Which images are finished."""
        return over(self.store)

    def older(self, result: Result) -> list[str]:
        """A note where a result is over other images than those that are finished now."""
        then = result.provenance.get("identity", {}).get("over")
        return notes.older(then is not None and then != self.now)

    @cached_property
    def extraction(self) -> status.ExtractionStatus:
        return status.extraction(self.store.data, self.store.meta, time.time())


def when(stamp: str | None) -> str:
    """``2026-11-26 19:44 UTC``; empty where it is not known."""
    return "" if not stamp else f"{datetime.fromisoformat(stamp):%Y-%m-%d %H:%M} UTC"


def store_page(read: Reader, first: Sequence[Section] = (), last: Sequence[Section] = ()) -> str:
    """The page of a store.

    Parameters
    ----------
    read : Reader
    first, last : sequence of Section
        What else is known, before and after what results say.
    """
    store = read.store
    meta = store.meta
    sections = [
        *first,
        *_of_extraction(read),
        *_of_heads(read),
        *_of_repairs(read),
        *_of_two_sets(read),
        *_of_alignments(read),
        *_of_neurons(read),
        *_of_segments(read),
        *_of_heatmaps(read),
        *_of_searches(read),
        *_of_moments(read),
        *last,
        *_missing(read),
    ]
    return page(
        f"{meta.architecture}: what was found",
        f"{meta.architecture} ({meta.weights}) taken apart over {meta.images:,} images, "
        f"{meta.source}. In {store.url}, by Facet {meta.revision}.",
        sections,
        notes.random_weights(meta),
    )


def _of_extraction(read: Reader) -> list[Section]:
    store, found = read.store, read.extraction
    results = read.results("extract")
    made = read.made(results[0]) if results else Made(read.following["extract"])
    sections = [extraction.images_section(store, found, made)]
    if found.images_ok and found.residual is not None:
        sections.append(extraction.exactness_section(store, found))
        if {"heads", "mlps"} <= set(store.meta.components):
            sections.append(extraction.shares_section(shares(store, READ), found.images_ok))
    return sections


def _of_moments(read: Reader) -> list[Section]:
    found = all_reductions(read.store.url, read.store.meta)
    return [extraction.moments_section(found)] if found else []


# -- heads ---------------------------------------------------------------------------------


def _of_heads(read: Reader) -> list[Section]:
    studied = by_part(read.results("ablate"), lambda result: result.config["study"])
    tables = {r.url: r.table("accuracy").to_pandas() for r in studied.values()}
    losses: dict[Head, str] = {}
    if "heads" in studied and not at_chance(studied["heads"], tables[studied["heads"].url]):
        losses = heads.losses_of(tables[studied["heads"].url])
    texts, described = _texts(read, losses)
    ablations = [
        _ablation(read, study, studied[study], tables[studied[study].url], described)
        for study in heads.TITLES
        if study in studied
    ]
    return [*texts, *_labels(read, described), *ablations]


def _texts(read: Reader, losses: Mapping[Head, str]) -> tuple[list[Section], list[Head]]:
    """Heads in words, and which heads these are."""
    if not (results := read.results("textspan")):
        return [], []
    result = results[0]
    table = result.table("descriptions").to_pandas()
    described = heads.heads_of(table)
    if not described:
        return [], []
    images, made = result.provenance["images"], read.made(result)
    dims = read.store.meta.head_dim
    sections = [heads.textspan_section(table, images, dims, losses, read.older(result), made)]
    if pictured := _pictured(read.store, result):
        sections.append(heads.pictured_section(pictured, len(described), made))
    if (known := KnownRoles.of(result)) is not None:
        sections.append(heads.roles_section(known, images, described, made))
    return sections, described


def _pictured(store: Store, result: Result) -> dict[Head, tuple[str, list[tuple[Markup, str]]]]:
    """Some heads' first texts, with the images that they write most of them for."""
    found = [head for head in described_heads(result, 1) if head.texts[0].images]
    return {
        (head.layer, head.head): (
            head.texts[0].text,
            [
                (picture(extraction.thumbnail(store, i.image), i.key), f"{i.score:+.3f}, {i.key}")
                for i in head.texts[0].images[:OF_TEXT]
            ],
        )
        for head in (found[at] for at in spread(range(len(found)), PICTURED))
    }


def _labels(read: Reader, described: Sequence[Head]) -> list[Section]:
    """Labels that were asked for last."""
    return [
        labels.labels_section(
            labelled(result), result.provenance["images"], described, read.older(result),
            read.made(result),
        )
        for result in read.results(LABEL)[:1]
    ]  # fmt: skip


def _ablation(
    read: Reader, study: str, result: Result, table: pd.DataFrame, described: Sequence[Head]
) -> Section:
    warned, made = read.older(result), read.made(result)
    classes = classes_of(result, table)
    found = heads.ablation_section(study, table, classes, described, warned, made)
    if study != "effects":
        return found
    explained = sentences.explained_effects(result.table("effects").to_pandas())
    return replace(found, found=f"{found.found} {explained}")


def _of_two_sets(read: Reader) -> list[Section]:
    """The sets of images that were compared last."""
    return [
        two_sets.two_sets_section(
            compared_sets(result, sentences.TOP), f"compare-{result.name}", read.older(result),
            read.made(result),
        )
        for result in read.results("compare")[:PAIRS]
    ]  # fmt: skip


def _of_alignments(read: Reader) -> list[Section]:
    """The models that this store's was held against last."""
    return [
        between.between_section(
            aligned(result, sentences.TOP), f"align-{result.name}", read.older(result),
            read.made(result),
        )
        for result in read.results("align")[:PAIRS]
    ]  # fmt: skip


def by_part(
    results: Iterable[Result], parts: Callable[[Result], Iterable[Any]]
) -> dict[Any, Result]:
    """The result of every part, such as a study or a layer, that was asked for last."""
    found: dict[Any, Result] = {}
    for result in results:
        for part in parts(result):
            found.setdefault(part, result)
    return found


def classes_of(result: Result, table: pd.DataFrame) -> int:
    """Among how many classes it was chosen; of older results, of how many there were images."""
    seen = table.loc[table["scope"] == "class", "name"].nunique()
    return int(result.provenance.get("classes", seen))


def at_chance(result: Result, table: pd.DataFrame) -> bool:
    """Whether the model does no better than guessing."""
    whole = table[(table["scope"] == "all") & (table["study"] == "none")]
    return notes.at_chance(whole.iloc[0], classes_of(result, table))


def _of_repairs(read: Reader) -> list[Section]:
    """For each column of groups, the repair that was asked for last."""
    found = by_part(read.results("repair"), lambda result: [result.config["groups"]])
    return [
        repair_section(
            repaired(result),
            [*read.older(result), *result.provenance["warnings"]],
            read.made(result),
        )
        for result in found.values()
    ]


# -- neurons -------------------------------------------------------------------------------


def _of_neurons(read: Reader) -> list[Section]:
    found = by_part(read.results("second_order"), lambda result: result.provenance["mlp_layers"])
    layers = sorted(found, reverse=True)
    shown = [layers[i % len(layers)] for i in range(NEURONS)] if layers else []
    model, why = _model(read) if layers else (None, "")
    sections = []
    for layer in layers:
        sections += _of_layer(read, layer, found[layer], shown.count(layer), model, why)
    return sections


def _model(read: Reader) -> tuple[VisionModel | None, str]:
    """The store's model, if its weights are at hand, or why not."""
    try:
        return store_model(read.store, read.pretrained), ""
    except (FacetError, ModelError) as error:
        return None, f"Where neurons fire in an image takes the model's weights: {error}."


def _of_layer(
    read: Reader, layer: int, effects: Result, count: int, model: VisionModel | None, why: str
) -> list[Section]:
    """Sections of one layer's neurons, of which ``count`` are shown."""
    table = effects.table("neurons").to_pandas()
    table = table[table["layer"] == layer]
    if not (table["norm_max"] > 0).any():
        return []
    coded = codes_of(read.store, effects, layer)
    found = None if coded is None else read_codes(coded)
    chosen = _picked(layer, table, effects, found, count)
    shown = [one.neuron for one in chosen]
    warned, made = read.older(effects), read.made(effects)
    images = effects.provenance["images"]
    sections = [neurons.effects_section(layer, table, images, shown, warned, made)]
    if found is not None:
        old, codes_made = read.older(found.result), read.made(found.result)
        sections.append(neurons.codes_section(layer, found, shown, old, codes_made))
        if found.accuracy is not None:
            classes = classes_of(found.result, found.accuracy)
            sections.append(
                neurons.accuracy_section(layer, found.accuracy, classes, old, codes_made)
            )
    if not chosen:
        return sections
    reader = None if model is None else NeuronReader(read.store, model, layer, effects, coded, READ)
    top = effects.table("top_images").to_pandas()
    top = top[top["layer"] == layer]
    for one in chosen:
        sections.append(
            neurons.neuron_section(
                neurons.Shown(
                    layer,
                    one,
                    table[table["neuron"] == one.neuron].iloc[0].to_dict(),
                    () if found is None else terms(found.codes, layer, one.neuron),
                    _truth(found, layer, one.neuron),
                    None if reader is None else reader.about(one.neuron),
                    [] if reader is not None else _top_images(read.store, top, one.neuron),
                ),
                why,
                made,
            )
        )
    return sections


def _picked(
    layer: int, table: pd.DataFrame, effects: Result, found: FoundCodes | None, count: int
) -> list[Picked]:
    """Neurons to be shown: by their AUC where the truth is known, else by how their codes fit."""
    directions = effects.arrays("components")["direction"].sel(layer=layer).values
    codes = pd.DataFrame({"neuron": [], "rank": [], "text": [], "coefficient": []})
    quality, names = pd.Series(dtype=float), ("", "")
    if found is not None:
        codes = found.codes[found.codes["layer"] == layer]
        fits = found.fits[found.fits["layer"] == layer]
        quality = -fits[fits["most"] == fits["most"].max()].set_index("neuron")["residual"]
        names = ("the one whose code fits best", "the one whose code fits worst")
        if layer in found.truths and len(truth := found.truths[layer].table):
            quality = truth.set_index("neuron")["auc"]
            names = ("the one whose text is truest", "the one whose text is least true")
    return picked(table, directions, codes, quality, names, count)


def _truth(found: FoundCodes | None, layer: int, neuron: int) -> Mapping[str, Any] | None:
    if found is None or layer not in found.truths:
        return None
    rows = found.truths[layer].table
    rows = rows[rows["neuron"] == neuron]
    return None if rows.empty else {str(k): v for k, v in rows.iloc[0].to_dict().items()}


def _top_images(store: Store, top: pd.DataFrame, neuron: int) -> list[tuple[str, str]]:
    rows = top[top["neuron"] == neuron].sort_values("rank")[:TOP_IMAGES]
    return [
        extraction.picture(store, row["image"], f"image {row['image']}: {row['score']:+.3f}")
        for row in rows.to_dict("records")
    ]


# -- where in pictures ---------------------------------------------------------------------


def _of_heatmaps(read: Reader) -> list[Section]:
    """The heat maps that were asked for last."""
    return [
        heatmaps.heatmap_section(read_heatmaps(result), f"heatmap-{result.name}", read.made(result))
        for result in read.results("heatmap")[:HEATMAPS]
    ]


def _of_segments(read: Reader) -> list[Section]:
    """Methods against masks, for each list of classes that maps were made of."""
    found = by_part(read.results("segment"), lambda result: [result.config["classes"]])
    sections = []
    for classes, result in found.items():
        sections += segmentation.segmentation_sections(
            segmented(result), Sheet.of(result), result.config["class_"], classes,
            read.older(result), read.made(result),
        )  # fmt: skip
    return sections


# -- searches ------------------------------------------------------------------------------


def _of_searches(read: Reader) -> list[Section]:
    """The searches that were asked for last."""
    sections = []
    for result in read.results("search")[:SEARCHES]:
        found = Found.of(result)
        pictures = search.read_pictures(found, result)
        name = f"search-{result.name}"
        sections.append(search.search_section(found, read.store, pictures, name, read.made(result)))
    return sections


# -- what is not there ---------------------------------------------------------------------

ABOUT = {
    "textspan": "heads in words",
    "label": "what heads are about, with evidence",
    "ablate": "what accuracy loses without parts",
    "second-order": "what neurons write through later heads",
    "omp": "neurons in words",
    "segment": "how well maps of where a class is agree with masks",
}


def _missing(read: Reader) -> list[Section]:
    """What has not been looked for, and the commands that do."""
    rows = [
        (about, read.following[job])
        for job, about in ABOUT.items()
        if not read.results(job.replace("-", "_"))
    ]
    if not rows:
        return []
    return [
        section(
            "Not looked for yet",
            name="missing",
            found=f"{len(rows)} of {len(ABOUT)} kinds of results are not there yet.",
            header=("to see", "type"),
            rows=rows,
        )
    ]
