"""One head: what it writes, in words and in images, where it lies among others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.cloud import Cloud, cloud
from pipeline.explorer.columns import said
from pipeline.explorer.head_map import MapFacts, Shown, map_facts
from pipeline.explorer.head_rows import refuse_head
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.likeness import Elsewhere, Neighbour, elsewhere, neighbours
from pipeline.explorer.spaces import judged_labels
from pipeline.heads.answers import HeadRole, HeadText, described_heads
from pipeline.heads.choices import Head
from pipeline.heads.names import head_name
from pipeline.labels.answers import labelled
from storage.reductions import find_reductions
from storage.results import Result

# Texts that are told, and images of each component's end.
TEXTS, ENDS = 10, 8


@dataclass(frozen=True)
class Evidence:
    """A head's label, and what speaks for it; figures as ``label/labels`` has them.

    Attributes
    ----------
    texts : tuple of (str, float, bool)
        The first texts, the share of the head's variance that each adds, and whether the label fits
        it.
    properties : tuple of (str, float)
        Share of the head's variance that each property's texts explain, the largest first; none
        where a language model was the judge.
    """

    label: str | None
    judge: str
    fitting: int
    share: float
    explained: float
    overlap: float | None
    nearest: str | None
    role: str | None
    role_share: float | None
    measured: float | None
    texts: tuple[tuple[str, float, bool], ...]
    properties: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Component:
    """A principal component of what a head writes.

    Attributes
    ----------
    number : int
        From 1.
    share : float
        Of the head's variance.
    highest, lowest : tuple of Shown
        The images at its ends.
    """

    number: int
    share: float
    highest: tuple[Shown, ...]
    lowest: tuple[Shown, ...]


@dataclass(frozen=True)
class HeadView:
    """A head.

    Attributes
    ----------
    layer, head : int
    name : str
        In words.
    variance, share : float or None
        Of what it writes, on the published scale; its part of all heads' variances.
    texts : tuple of HeadText
        By rank.
    role : HeadRole or None
        What it is about, where the truth is known.
    evidence : Evidence or None
    components : tuple of Component
    map : MapFacts or None
    neighbours : tuple of Neighbour
    elsewhere : tuple of Elsewhere
    missing : dict of str to str
        The command for what was not found yet, by job.
    """

    layer: int
    head: int
    name: str
    variance: float | None
    share: float | None
    texts: tuple[HeadText, ...]
    role: HeadRole | None
    evidence: Evidence | None
    components: tuple[Component, ...]
    map: MapFacts | None
    neighbours: tuple[Neighbour, ...]
    elsewhere: tuple[Elsewhere, ...]
    missing: dict[str, str]


def head_view(library: Library, here: Opened, layer: int, head: int) -> HeadView:
    """All that is known of a head.

    Raises
    ------
    NotHere
        If there is no such head.
    """
    refuse_head(here, layer, head)
    at = (layer, head)
    described = here.latest("textspan")
    answer = None
    if described is not None:
        answers = here.cached(
            ("described", described.url),
            lambda: {(a.layer, a.head): a for a in described_heads(described, TEXTS)},
        )
        answer = answers.get(at)
    evidence = evidence_of(here, at)
    points = cloud(here, layer, head)
    variance, share = variance_of(here, at)
    lacking = {
        "textspan": answer is None,
        "label": evidence is None,
        "reduce": points is None,
        "index": points is not None and points.images < points.of,
    }
    return HeadView(
        layer, head, head_name(layer, head), variance, share,
        () if answer is None else answer.texts, None if answer is None else answer.role,
        evidence, () if points is None else components(here, points),
        None if points is None else map_facts(points),
        neighbours(here, at, judged_labels(here)), elsewhere(library, here, at),
        {job: here.hint(job) for job, lacks in lacking.items() if lacks},
    )  # fmt: skip


def variance_of(here: Opened, at: Head) -> tuple[float | None, float | None]:
    """Variance of what a head writes, and its part of all heads' variances."""

    def read() -> NDArray[np.float64] | None:
        reductions = find_reductions(here.url, here.meta, None)
        if reductions is None or "heads_pca_variance" not in reductions.data:
            return None
        return reductions.array("heads_pca_variance").values.sum(-1)

    variances = here.cached("variances of heads", read)
    if variances is None:
        return None, None
    whole = float(variances.sum())
    return float(variances[at]), float(variances[at]) / whole if whole else None


def evidence_of(here: Opened, at: Head) -> Evidence | None:
    """A head's label, of the labels that were asked for last; None where it was not labelled."""
    result = here.latest("label")
    if result is None:
        return None
    found = here.cached(("evidence", result.url), lambda: _evidence(result))
    return found.get(at)


def _evidence(result: Result) -> dict[Head, Evidence]:
    """Of every head that was labelled."""
    found = labelled(result)
    texts: dict[Head, list[tuple[str, float, bool]]] = {}
    columns = ["layer", "head", "text", "explained_variance", "fits"]
    for row in found.texts.sort_values("rank")[columns].itertuples(index=False, name=None):
        texts.setdefault((int(row[0]), int(row[1])), []).append(
            (str(row[2]), float(row[3]), bool(row[4]))
        )
    properties: dict[Head, list[tuple[str, float]]] = {}
    for row in property_rows(result):
        properties.setdefault(row[:2], []).append(row[2:])
    evidence = {}
    for one in found.labels.to_dict("records"):
        at = int(one["layer"]), int(one["head"])
        evidence[at] = Evidence(
            one["label"], found.judge, int(one["fitting"]), float(one["share"]),
            float(one["explained"]), _known(one["overlap"]), one["nearest"], one["role"],
            _known(one["role_share"]), _known(one["measured"]), tuple(texts.get(at, ())),
            tuple(sorted(properties.get(at, ()), key=lambda named: -named[1])),
        )  # fmt: skip
    return evidence


def property_rows(result: Result) -> list[tuple[int, int, str, float]]:
    """Layer, head, property and share; none where a language model was the judge."""
    if result.config["with_"] != "lexicon":
        return []
    rows = result.table("properties").to_pylist()
    return [(r["layer"], r["head"], r["property"], r["share"]) for r in rows]


def _known(figure: float) -> float | None:
    return None if np.isnan(figure) else float(figure)


def components(here: Opened, points: Cloud) -> tuple[Component, ...]:
    """The images at the ends of each component."""
    found = []
    for number, share in enumerate(points.shares):
        ends = [
            tuple(
                Shown(int(i), said(here, int(i)), float(points.along_pn[number, i]))
                for i in points.best(number, ENDS, lowest)
            )
            for lowest in (False, True)
        ]
        found.append(Component(number + 1, share, *ends))
    return tuple(found)
