"""The heads that wrote most of a picture's embedding, in words; what speaks for a text in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Library, Opened
from pipeline.explorer.spaces import labels_of
from pipeline.explorer.subject import Decomposed
from pipeline.explorer.words import directions, tidied
from pipeline.explorer.written import Along, along
from pipeline.heads.choices import Head
from storage.errors import FacetError
from storage.reductions import find_reductions

# Heads that are shown, and texts of each; parts that are told apart of what speaks for a text.
STRONG, TEXTS, PARTS = 8, 5, 14


@dataclass(frozen=True)
class HeadText:
    """A text of a head, and how much of it the head wrote of the picture.

    Attributes
    ----------
    text : str
    coefficient : float
        ⟨contribution, text⟩/‖embedding‖.
    beyond : float or None
        The same less its mean over all images, where that is known.
    """

    text: str
    coefficient: float
    beyond: float | None


@dataclass(frozen=True)
class StrongHead:
    """A head that wrote much of the embedding.

    Attributes
    ----------
    layer, head : int
    share : float
        Of the embedding.
    label : str or None
    unlike : float or None
        How far what it wrote is from its mean over all images, over how far images are from it on
        the whole (root of the mean square).
    texts : tuple of HeadText
        Of those that TextSpan found for it, the ones that it wrote most of, or least: by the size
        of ``beyond``, or of ``coefficient`` where that is not known.
    """

    layer: int
    head: int
    share: float
    label: str | None
    unlike: float | None
    texts: tuple[HeadText, ...]


@dataclass(frozen=True)
class Speaks:
    """What one part has of a logit.

    Attributes
    ----------
    name : str
        In words.
    head : str
        ``3.0``; empty where it is none.
    label : str or None
        Of the head, where it was given one.
    value : float
    beyond : float or None
        Less its mean over all images.
    """

    name: str
    head: str
    label: str | None
    value: float
    beyond: float | None


@dataclass(frozen=True)
class SpeaksFor:
    """What speaks for a text in a picture, or for one text against another.

    Attributes
    ----------
    text, against : str
        The latter is empty where there is none.
    logit, mean : float, float or None
        ⟨embedding, text⟩/‖embedding‖, of the difference of both texts; on average over all images.
    parts : tuple of Speaks
        Those that tell this picture from others most clearly, or have most of the logit; the last
        is all others together: they sum to the logit.
    """

    text: str
    against: str
    logit: float
    mean: float | None
    parts: tuple[Speaks, ...]


@dataclass(frozen=True, eq=False)
class Typical:
    """Means over all images, on the published scale; float64. What was not reduced is None."""

    heads_lhk: NDArray[np.float64]
    variance_lh: NDArray[np.float64]
    mlps_sd: NDArray[np.float64] | None
    embedding_e: NDArray[np.float64] | None


def typical(here: Opened) -> Typical | None:
    """What images have on average; None where heads were not reduced."""

    def read() -> Typical | None:
        reductions = find_reductions(here.url, here.meta, None)
        if reductions is None or not {"heads_mean", "heads_pca_variance"} <= set(reductions.data):
            return None
        known = reductions.data
        mlps = known["mlps_mean"].values if "mlps_mean" in known else None
        embedding = known["embedding_mean"].values if "embedding_mean" in known else None
        variance_lh = known["heads_pca_variance"].sum("head_component").values
        return Typical(known["heads_mean"].values, variance_lh, mlps, embedding)

    return here.cached("typical contributions", read)


def described(here: Opened) -> Mapping[Head, list[str]]:
    """The texts that TextSpan found for each head, by rank, by the run that was asked for last."""

    def read() -> dict[Head, list[str]]:
        result = here.latest("textspan")
        if result is None:
            return {}
        table = result.table("descriptions").to_pandas().sort_values(["layer", "head", "rank"])
        return {
            (int(layer), int(head)): of["text"].tolist()
            for (layer, head), of in table.groupby(["layer", "head"])
        }

    return here.cached("texts of heads", read)


def strong_heads(
    library: Library, here: Opened, found: Decomposed, shares_lh: NDArray[np.float64]
) -> tuple[StrongHead, ...]:
    """The heads whose shares are largest, of either sign, each with texts that it wrote.

    Raises
    ------
    FacetError
        If the texts are not kept, and the model cannot embed them.
    """
    order = np.argsort(-np.abs(shares_lh), axis=None, kind="stable")[:STRONG]
    heads = [divmod(int(at), shares_lh.shape[1]) for at in order]
    known, labels, means = described(here), labels_of(here), typical(here)
    texts = list(dict.fromkeys(text for at in heads for text in known.get(at, [])))
    rows = dict(zip(texts, directions(library, here, texts), strict=True)) if texts else {}
    maps = here.store.model()["head_map"]
    strong = []
    for layer, head in heads:
        map_ke = np.asarray(maps[layer, head], np.float64)
        own_k = np.asarray(found.parts.heads_blhk[0, layer, head], np.float64)
        own_k = own_k / found.parts.scale_b[0]
        beyond_k = None if means is None else own_k - means.heads_lhk[layer, head]
        unlike = None
        if beyond_k is not None and means is not None and means.variance_lh[layer, head] > 0:
            length = np.linalg.norm(beyond_k @ map_ke)
            unlike = float(length / np.sqrt(means.variance_lh[layer, head]))
        beyond_e = None if beyond_k is None else beyond_k @ map_ke
        said = _strongest(known.get((layer, head), []), rows, own_k @ map_ke, beyond_e)
        share, label = float(shares_lh[layer, head]), labels.get((layer, head))
        strong.append(StrongHead(layer, head, share, label, unlike, said))
    return tuple(strong)


def _strongest(
    texts: list[str],
    rows: Mapping[str, NDArray[np.float32]],
    own_e: NDArray[np.float64],
    beyond_e: NDArray[np.float64] | None,
) -> tuple[HeadText, ...]:
    found = [
        HeadText(
            text,
            float(rows[text] @ own_e),
            None if beyond_e is None else float(rows[text] @ beyond_e),
        )
        for text in texts
    ]
    by_size = sorted(
        found, key=lambda one: -abs(one.coefficient if one.beyond is None else one.beyond)
    )
    return tuple(by_size[:TEXTS])


def speaks_for(
    library: Library, here: Opened, found: Decomposed, text: str, against: str
) -> SpeaksFor:
    """What each part has of a text's logit, or of one text's less another's.

    Raises
    ------
    NotYet
        If the text is new, and the model that embeds it is being loaded.
    FacetError
        If there is no text.
    """
    asked = tidied([text]), tidied([against])
    if not asked[0]:
        raise FacetError("give a text")
    rows = directions(library, here, [one for pair in asked for one in pair])
    direction_e = rows[0].astype(np.float64)
    if asked[1]:
        direction_e = direction_e - rows[-1]
    model, parts, labels = here.store.model(), found.parts, labels_of(here)
    own = along(model, parts, direction_e)
    mean = _typical_along(here, model, direction_e)
    logit = float(np.asarray(parts.embedding_be[0], np.float64) @ direction_e / parts.norm_b[0])
    named = [
        *(
            (f"head {layer}.{head}", f"{layer}.{head}", labels.get((layer, head)),
             own.heads[layer, head],
             None if mean is None else mean.heads[layer, head])
            for layer, head in np.ndindex(own.heads.shape)
        ),
        *(
            ("the start" if block == 0 else f"the MLP of layer {block - 1}", "", None,
             own.mlps[block], None if mean is None else mean.mlps[block])
            for block in range(len(own.mlps))
        ),
    ]  # fmt: skip
    each = [
        Speaks(name, head, label, float(value), None if m is None else float(value - m))
        for name, head, label, value, m in named
    ]
    each.sort(key=lambda one: -abs(one.value if one.beyond is None else one.beyond))
    shown = each[:PARTS]
    # With the constants, and what rounding costs.
    rest = logit - sum(one.value for one in shown)
    total = None if mean is None else mean.total
    beyond = None
    if total is not None:
        beyond = logit - total - sum(one.beyond or 0.0 for one in shown)
    others = Speaks("all other parts", "", None, rest, beyond)
    return SpeaksFor(asked[0][0], asked[1][0] if asked[1] else "", logit, total, (*shown, others))


def _typical_along(here: Opened, model: Any, direction_e: NDArray[np.float64]) -> Along | None:
    """What each part has along a direction on average; None where that is not known of all."""
    means = typical(here)
    if means is None or means.mlps_sd is None or means.embedding_e is None:
        return None
    heads = np.einsum("lhk,lhk->lh", means.heads_lhk, np.asarray(model["head_map"]) @ direction_e)
    mlps = means.mlps_sd @ (np.asarray(model["mlp_map"]) @ direction_e)
    total = float(means.embedding_e @ direction_e)
    return Along(heads, mlps, total - float(heads.sum() + mlps.sum()))
