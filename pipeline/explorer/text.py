"""One text: the images that have most of it, the heads that respond to it, heads it describes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer import spaces
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.model import NotYet
from pipeline.explorer.spaces import Choice, Nearest
from pipeline.explorer.words import directions, in_heads, tidied, tokenizer_for
from pipeline.search.choices import Metric
from storage.errors import StoreError
from storage.reductions import Reductions, find_reductions
from storage.results import Result

# Heads that a page lists.
HEADS = 24


@dataclass(frozen=True)
class HeadResponse:
    """How much of a text a head writes, over all images; on the published scale.

    Attributes
    ----------
    layer, head : int
    label : str or None
    mean : float
        Of ⟨what it wrote, text⟩/‖embedding‖.
    deviation : float
        The standard deviation of that.
    share : float
        Its variance as a share of the sum of all heads' variances along the text.
    own : float
        The same variance as a share of all variance of the head.
    """

    layer: int
    head: int
    label: str | None
    mean: float
    deviation: float
    share: float
    own: float


@dataclass(frozen=True, eq=False)
class Responses:
    """How all heads respond to a text.

    Attributes
    ----------
    images : int
        Counted.
    mean : float or None
        Mean cosine of image and text, where the embedding was reduced.
    heads : tuple of HeadResponse
        Those with the largest shares, first.
    deviations_lh : (layer, head) float64
        See ``HeadResponse.deviation``.
    """

    images: int
    mean: float | None
    heads: tuple[HeadResponse, ...]
    deviations_lh: NDArray[np.float64]


@dataclass(frozen=True)
class Described:
    """A head that the text describes.

    Attributes
    ----------
    layer, head : int
    pool : str
        Of the run of TextSpan that picked the text.
    rank : int
        Order of the pick, from 0.
    explained_variance : float
        Share of the head's variance that the pick added.
    """

    layer: int
    head: int
    pool: str
    rank: int
    explained_variance: float


@dataclass(frozen=True)
class Lacking:
    """What cannot be shown, and the command that would find it."""

    what: str
    command: str


@dataclass(frozen=True, eq=False)
class TextView:
    """What a store says of a text.

    Attributes
    ----------
    text : str
        Empty before one was typed.
    space : str
        What images are compared in, as addresses have it.
    metric : {"cosine", "dot"}
    where : str
        Which images may be found; empty: all.
    spaces : tuple of Choice
    waiting : str
        Why nothing is known yet; empty where that is not so.
    nearest : Nearest or None
    responses : Responses or None
    described : tuple of Described
        The heads that the text describes, those of which it explains most first.
    lacking : tuple of Lacking
    """

    text: str
    space: str
    metric: Metric
    where: str
    spaces: tuple[Choice, ...]
    waiting: str = ""
    nearest: Nearest | None = None
    responses: Responses | None = None
    described: tuple[Described, ...] = ()
    lacking: tuple[Lacking, ...] = ()


def text_view(
    library: Library, here: Opened, text: str, space: str, metric: Metric, where: str
) -> TextView:
    """What a store says of a text, or why nothing is known yet.

    Raises
    ------
    NotHere, FacetError
        If the space, the text or the condition cannot be understood.
    """
    space = space or "whole"
    asked = spaces.parse_space(here, space)
    choices, wanted = spaces.choices(here), tidied([text])
    if not wanted:
        library.model.begin(here, tokenizer_for)  # while a text is typed
        return TextView("", space, metric, where, choices)
    (text,) = wanted
    try:
        (direction_e,) = directions(library, here, [text])
    except NotYet as error:
        return TextView(text, space, metric, where, choices, str(error))
    lacking: list[Lacking] = []
    nearest = responses = None
    try:
        query = spaces.text_query(here, asked, direction_e)
        nearest = spaces.nearest(here, asked, query, metric=metric, where=where or None)
    except StoreError as error:
        if error.remedy is None:
            raise
        lacking.append(
            Lacking(f"Images cannot be compared: {error}.", here.hint(error.remedy.name))
        )
    found = reduced(here)
    if found is None:
        what = "How heads respond follows from their means and covariances, which are not there."
        lacking.append(Lacking(what, here.hint("reduce")))
    else:
        responses = here.cached(("responses", text), lambda: responses_to(here, found, direction_e))
    if not here.results("textspan"):
        what = "No heads are described by texts yet."
        lacking.append(Lacking(what, here.hint("textspan")))
    return TextView(
        text, space, metric, where, choices, "",
        nearest, responses, described_by(here, text), tuple(lacking),
    )  # fmt: skip


def reduced(here: Opened) -> Reductions | None:
    """The reductions of all images, where heads are among them."""

    def find() -> list[Reductions]:
        found = find_reductions(here.url, here.meta, None)
        return [] if found is None or "heads_pca_variance" not in found.data else [found]

    return next(iter(here.cached("reductions of all", find)), None)


def responses_to(
    here: Opened, reductions: Reductions, direction_e: NDArray[np.floating]
) -> Responses:
    """How heads respond to a text, from their means and covariances.

    With a = head_map·t in a head's coordinates, the mean of what it writes along t is ⟨mean, a⟩ and
    its variance aᵀ Σ a.

    Parameters
    ----------
    direction_e : (embed,)
        A unit row of the joint space.
    """
    text_e = np.asarray(direction_e, np.float64)
    means_lhk, covariances_lhkk, variances_lhc = (
        here.cached(name, partial(_values, reductions, name))
        for name in ("heads_mean", "heads_covariance", "heads_pca_variance")
    )
    along_lhk = in_heads(here, text_e)
    means_lh = np.einsum("lhk,lhk->lh", means_lhk, along_lhk)
    found_lh = np.einsum("lhk,lhkj,lhj->lh", along_lhk, covariances_lhkk, along_lhk, optimize=True)
    variance_lh = np.maximum(found_lh, 0.0)
    with np.errstate(invalid="ignore"):
        share_lh = variance_lh / variance_lh.sum()
        own_lh = variance_lh / variances_lhc.sum(-1)
    labels, heads = spaces.labels_of(here), variance_lh.shape[1]
    order = np.argsort(-variance_lh.ravel(), kind="stable")[:HEADS]
    rows = tuple(
        HeadResponse(
            layer, head, labels.get((layer, head)), float(means_lh[layer, head]),
            float(np.sqrt(variance_lh[layer, head])), float(share_lh[layer, head]),
            float(own_lh[layer, head]),
        )
        for layer, head in (divmod(int(at), heads) for at in order)
    )  # fmt: skip
    mean = None
    if "embedding_mean" in reductions.data:
        mean = float(reductions.array("embedding_mean").values @ text_e)
    return Responses(reductions.count(), mean, rows, np.sqrt(variance_lh))


def _values(reductions: Reductions, name: str) -> NDArray[np.float64]:
    return reductions.array(name).values


def described_by(here: Opened, text: str) -> tuple[Described, ...]:
    """The heads that a text describes, by the run of each pool that was asked for last."""
    latest = {str(run.config["pool"]): run for run in here.results("textspan")[::-1]}
    found: list[Described] = []
    for pool, run in latest.items():
        picked = here.cached(("picked texts", run.url), partial(_picked, run))
        for layer, head, rank, explained in picked.get(text, []):
            found.append(Described(layer, head, pool, rank, explained))
    return tuple(sorted(found, key=lambda one: -one.explained_variance))


def _picked(run: Result) -> dict[str, list[tuple[int, int, int, float]]]:
    """Of every text that a run of TextSpan picked: layer, head, rank, variance it explains."""
    found: dict[str, list[tuple[int, int, int, float]]] = {}
    for row in run.table("descriptions").to_pylist():
        place = row["layer"], row["head"], row["rank"], row["explained_variance"]
        found.setdefault(row["text"], []).append(place)
    return found
