"""The page of a store: whatever its results have found, read from their tables alone.

Nothing that takes long is computed, and what is read and shown does not grow with the images: a
page has a few pictures of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from markupsafe import Markup

from pipeline.adversarial.answers import adversarial
from pipeline.between.answers import aligned
from pipeline.concepts.answers import concepts_found
from pipeline.heads.answers import compared_sets, described_heads
from pipeline.heads.describe import Head
from pipeline.heads.parts import keeps_parts
from pipeline.heads.roles import KnownRoles
from pipeline.heads.shares import shares
from pipeline.heatmaps.answers import segmented
from pipeline.heatmaps.found import read as read_heatmaps
from pipeline.heatmaps.sheet import Sheet
from pipeline.labels.answers import labelled
from pipeline.labels.found import JOB as LABEL
from pipeline.repair.answers import repaired
from pipeline.search.found import Found
from pipeline.subsets import spread
from pipeline.texts.towers import without_text_tower
from storage.metadata import Metadata
from storage.reductions import all_reductions
from storage.results import Result
from storage.store import Store

from . import (
    between,
    extraction,
    heads,
    heatmaps,
    labels,
    notes,
    search,
    segmentation,
    sentences,
    two_sets,
)
from .adversarial import adversarial_sections
from .concepts import concepts_sections
from .html import Made, Section, page, section
from .neuron_sections import of_neurons
from .pictures import picture
from .reader import READ, Reader, by_part, classes_of
from .repair import repair_section

# Pictures whose heat maps are shown; pairs of sets that are compared; searches.
HEATMAPS = PAIRS = SEARCHES = 3
# Heads whose first texts are shown in images, and images of each.
PICTURED, OF_TEXT = 8, 4


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
        *of_neurons(read),
        *_of_concepts(read),
        *_of_adversarial(read),
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
        if keeps_parts(store.meta):
            sections.append(
                extraction.shares_section(shares(store, READ), found.images_ok, store.meta.reading)
            )
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


def at_chance(result: Result, table: pd.DataFrame) -> bool:
    """Whether the model does no better than guessing."""
    whole = table[(table["scope"] == "all") & (table["study"] == "none")]
    return notes.at_chance(whole.iloc[0], classes_of(result, table))


# -- what heads are good for, and what differs --------------------------------------------


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


# -- what neurons are good for -------------------------------------------------------------


def _of_concepts(read: Reader) -> list[Section]:
    """The concepts of pictures, and of subsets, that were asked for last."""
    return [
        shown
        for result in read.results("concepts")[:PAIRS]
        for shown in concepts_sections(
            concepts_found(result), f"concepts-{result.name}", read.made(result), read.older(result)
        )
    ]


def _of_adversarial(read: Reader) -> list[Section]:
    """Of each pair of classes, the pictures that were asked for last."""
    found = by_part(
        read.results("adversarial"),
        lambda result: [(result.config["drawn"], result.config["target"])],
    )
    sections = []
    for result in list(found.values())[:PAIRS]:
        sections += adversarial_sections(
            adversarial(result), f"adversarial-{result.name}", read.made(result), few=True
        )
    return sections


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


def _askable(meta: Metadata) -> dict[str, str]:
    """Jobs of `ABOUT` that the store's model does not refuse, and whose results answer them."""
    results = {job: job.replace("-", "_") for job in ABOUT}
    if without_text_tower(meta) is not None:  # its heads have the words of a CLIP
        results = {"textspan": "align", "second-order": results["second-order"]}
    if not meta.heads:
        results = {job: name for job, name in results.items() if job not in ("textspan", "label")}
    if not meta.second_order_layers:
        results = {job: name for job, name in results.items() if job not in ("second-order", "omp")}
    return results


def _missing(read: Reader) -> list[Section]:
    """What has not been looked for, and the commands that do."""
    asked = _askable(read.store.meta)
    rows = [
        (ABOUT[job], read.following[job])
        for job, result in asked.items()
        if not read.results(result)
    ]
    if not rows:
        return []
    return [
        section(
            "Not looked for yet",
            name="missing",
            found=f"{len(rows)} of {len(asked)} kinds of results are not there yet.",
            header=("to see", "type"),
            rows=rows,
        )
    ]
