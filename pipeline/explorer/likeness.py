"""Heads that are like a head: of the same model, by what is kept of both; of other models, by
alignments that were found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Library, Opened
from pipeline.explorer.pools import pool_of
from pipeline.explorer.spaces import judged_labels
from pipeline.heads.choices import Head
from pipeline.labels.judged import first_texts
from pipeline.labels.scores import overlaps
from storage.reductions import find_reductions
from storage.results import Result

# Heads that are told.
MOST = 8
# Of a head's largest variance: a direction with less is rounding.
_NO_VARIANCE = 1e-9


@dataclass(frozen=True)
class Neighbour:
    """Another head of the same model.

    Attributes
    ----------
    layer, head : int
    label : str or None
        What it is about, where heads were labelled.
    same_label : bool
        Whether that is the label of both.
    directions : float or None
        How far both vary along the same directions: ⟨S, S'⟩ / (‖S‖ ‖S'‖) of their covariances in
        the joint space, from 0 to 1; None where one never varies.
    texts : float or None
        How far the spans of their first texts are one, as ``label`` has it: 1 where one holds the
        other, 0 where they are orthogonal; None where one of them was not described.
    """

    layer: int
    head: int
    label: str | None
    same_label: bool
    directions: float | None
    texts: float | None


@dataclass(frozen=True)
class Elsewhere:
    """A head of another store.

    Attributes
    ----------
    store : str
        By its name here.
    layer, head : int
    label : str or None
    same : bool
        Whether it is this very head: the model is the same, over other images.
    cka, cca : float or None
        How alike both are over the images that both stores have, where that was found.
    """

    store: str
    layer: int
    head: int
    label: str | None
    same: bool
    cka: float | None
    cca: float | None


def neighbours(here: Opened, at: Head, labels: Mapping[Head, str | None]) -> tuple[Neighbour, ...]:
    """The heads that vary along the same directions most; all others where that is not known.

    Parameters
    ----------
    here : Opened
    at : (layer, head)
    labels : mapping of (layer, head) to str or None
        Of all heads that were labelled.
    """
    meta = here.meta
    directions = here.cached(("directions of heads", at), lambda: directions_alike(here, at))
    described, overlap = text_overlaps(here)
    found = []
    for layer in range(meta.layers):
        for head in range(meta.heads):
            if (layer, head) == at:
                continue
            label = labels.get((layer, head))
            along = None if directions is None else float(directions[layer, head])
            both = at in described and (layer, head) in described
            texts = overlap[described[at], described[(layer, head)]] if both else None
            found.append(
                Neighbour(
                    layer, head, label, label is not None and label == labels.get(at),
                    None if along is None or math.isnan(along) else along,
                    None if texts is None else float(texts),
                )
            )  # fmt: skip
    found.sort(key=lambda n: (-(n.directions or 0.0), -(n.texts or 0.0), not n.same_label))
    told = [n for n in found if n.directions or n.texts or n.same_label]
    return tuple(told[:MOST])


def directions_alike(here: Opened, at: Head) -> NDArray[np.float64] | None:
    """``Neighbour.directions`` of every head, (L, H); NaN where one never varies.

    tr(S S') = ‖F F'ᵀ‖² for S = FᵀF and S' = F'ᵀF', where F = diag(√variances) · components · map:
    the products of the maps come first, as they are the same of all components.
    """
    reductions = find_reductions(here.url, here.meta, None)
    if reductions is None or "heads_pca" not in reductions.data:
        return None
    maps = here.store.model()["head_map"].values
    variances = reductions.array("heads_pca_variance").values
    rows = (np.sqrt(variances)[..., None] * reductions.array("heads_pca").values).astype(np.float32)
    found = np.zeros(variances.shape[:2])
    for layer, maps_hke in enumerate(maps):
        products = rows[at] @ (maps[at] @ maps_hke.swapaxes(1, 2)) @ rows[layer].swapaxes(1, 2)
        found[layer] = (products.astype(np.float64) ** 2).sum((1, 2))
    lengths = np.sqrt((variances**2).sum(-1))
    scale = lengths * lengths[at]
    return np.where(scale > 0, found / np.where(scale > 0, scale, 1.0), np.nan)


def text_overlaps(here: Opened) -> tuple[dict[Head, int], NDArray[np.float64]]:
    """Heads that were described last, each with its row; ``Neighbour.texts`` of all pairs."""
    result = here.latest("textspan")
    if result is None:
        return {}, np.zeros((0, 0))

    def find() -> tuple[dict[Head, int], NDArray[np.float64]]:
        heads, directions = described_spans(here, result)
        return {head: row for row, head in enumerate(heads)}, overlaps(directions)

    found: tuple[dict[Head, int], NDArray[np.float64]] = here.cached(("overlaps", result.url), find)
    return found


def described_spans(here: Opened, result: Result) -> tuple[list[Head], NDArray[np.float64]]:
    """Heads that TextSpan described, and an orthonormal basis of each one's first texts, as far as
    they lie in what the head varies along, (heads, R, E); rows past its rank are 0."""
    reductions = find_reductions(here.url, here.meta, result.config.get("where"))
    pool = pool_of(here, result)
    if reductions is None or pool is None or "heads_pca" not in reductions.data:
        return [], np.zeros((0, 0, 0))
    table = result.table("descriptions").to_pandas()
    heads = sorted({(int(a), int(b)) for a, b in zip(table["layer"], table["head"], strict=True)})
    rows = {text: row for row, text in enumerate(pool.texts)}
    variances = reductions.array("heads_pca_variance").values
    found = []
    for at, texts in first_texts(table, heads).items():
        axes_ne = reductions.head_pca(*at)["components"].values
        axes_ne = axes_ne[variances[at] > _NO_VARIANCE * variances[at].max()]
        inside = pool.embeddings[[rows[text] for text in texts]] @ axes_ne.T
        found.append(np.linalg.qr(inside.T)[0].T @ axes_ne)
    most = max(map(len, found))
    padded = [np.pad(basis, ((0, most - len(basis)), (0, 0))) for basis in found]
    return heads, np.stack(padded)


def elsewhere(library: Library, here: Opened, at: Head) -> tuple[Elsewhere, ...]:
    """The head in the other stores that are looked at: itself where the model is the same, and the
    heads most like it where models were held against each other."""
    found: list[Elsewhere] = []
    for other in library.stores.values():
        if other is here:
            continue
        labels = judged_labels(other)
        if other.meta.weights_digest == here.meta.weights_digest:
            found.append(Elsewhere(other.name, *at, labels.get(at), True, None, None))
        found += [
            Elsewhere(other.name, layer, head, labels.get((layer, head)), False, cka, cca)
            for layer, head, cka, cca in matched(here, other, at)
        ]
    return tuple(found)


def matched(here: Opened, other: Opened, at: Head) -> list[tuple[int, int, float, float]]:
    """Heads of another store that are most like a head, by the alignment that was asked for last,
    with CKA and CCA."""
    for to, source, own, theirs in ((here, other, "to", "from"), (other, here, "from", "to")):
        digest = source.meta.digest()
        for result in to.results("align"):
            if result.provenance["identity"]["from"]["store"] != digest:
                continue
            pairs = result.table("pairs").to_pandas()
            mine = (pairs[f"{own}_layer"] == at[0]) & (pairs[f"{own}_head"] == at[1])
            best = pairs[mine & pairs["cka"].notna()].nlargest(3, "cka")
            columns = [f"{theirs}_layer", f"{theirs}_head", "cka", "cca"]
            return [
                (int(layer), int(head), float(cka), float(cca))
                for layer, head, cka, cca in best[columns].itertuples(index=False, name=None)
            ]
    return []
