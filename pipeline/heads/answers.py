"""What is known of heads, as data: their texts and roles, ablations, and what tells sets apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from storage.results import Result

from .names import head_name


@dataclass(frozen=True)
class TextImage:
    """An image that a head writes much of a text for; ``score`` is how much."""

    image: int
    key: str
    score: float


@dataclass(frozen=True)
class HeadText:
    """A text of a head; the figures are those of the table ``descriptions``.

    Attributes
    ----------
    images : tuple of TextImage
        Those that the head writes most of it for; none where they were not looked for.
    """

    text: str
    score: float
    explained_variance: float
    cumulative: float
    images: tuple[TextImage, ...] = ()


@dataclass(frozen=True)
class HeadRole:
    """What a head is about, where the truth of the images is known.

    Attributes
    ----------
    attribute : str
        That explains most of what the head writes.
    shares : dict of str to float
        Share of the head's variance that each attribute explains.
    variance : float
        Of what the head writes, on the published scale.
    texts_about : int
        Of its first five texts, how many name the attribute.
    """

    attribute: str
    shares: dict[str, float]
    variance: float
    texts_about: int


@dataclass(frozen=True)
class HeadAnswer:
    """What one head writes, in words.

    Attributes
    ----------
    layer, head : int
    texts : tuple of HeadText
        By rank.
    role : HeadRole or None
    """

    layer: int
    head: int
    texts: tuple[HeadText, ...]
    role: HeadRole | None


def described_heads(result: Result, top: int) -> list[HeadAnswer]:
    """Every head that TextSpan described, with its first ``top`` texts."""
    descriptions, roles = result.table("descriptions").to_pandas(), _roles(result)
    images = text_images(result)
    columns = ["text", "score", "explained_variance", "cumulative"]
    rows = descriptions[descriptions["rank"] < top].sort_values(["layer", "head", "rank"])
    found = []
    for _, of_head in rows.groupby(["layer", "head"]):
        at = int(of_head["layer"].iloc[0]), int(of_head["head"].iloc[0])
        texts = (
            HeadText(text, score, explained, cumulative, images.get((*at, rank), ()))
            for rank, (text, score, explained, cumulative) in enumerate(
                of_head[columns].itertuples(index=False, name=None)
            )
        )
        found.append(HeadAnswer(*at, tuple(texts), roles.get(at)))
    return found


def text_images(result: Result) -> dict[tuple[int, int, int], tuple[TextImage, ...]]:
    """The images of every text, by layer, head and the text's rank; empty where none were kept."""
    if not result.config.get("top_images"):  # results of before have none
        return {}
    rows = result.table("images").to_pandas().sort_values(["layer", "head", "rank", "place"])
    found: dict[tuple[int, int, int], tuple[TextImage, ...]] = {}
    for r in rows.itertuples():
        at = (int(r.layer), int(r.head), int(r.rank))
        image = TextImage(int(r.image), str(r.key), float(r.score))
        found[at] = (*found.get(at, ()), image)
    return found


def _roles(result: Result) -> dict[tuple[int, int], HeadRole]:
    if not result.provenance["truth"]:
        return {}
    shares = result.arrays("shares")["share"].values
    attributes = result.arrays("shares").attrs["attributes"]
    return {
        (int(r.layer), int(r.head)): HeadRole(
            str(r.attribute),
            dict(zip(attributes, map(float, shares[r.layer, r.head]), strict=True)),
            float(r.variance),
            int(r.texts_about),
        )
        for r in result.table("roles").to_pandas().itertuples()
    }


@dataclass(frozen=True, eq=False)
class Ablated:
    """What ablations cost.

    Attributes
    ----------
    accuracy : DataFrame
        As ``heads.tables.ABLATIONS`` has it.
    effects : DataFrame or None
        Of the comparison of neurons' effects.
    """

    accuracy: pd.DataFrame
    effects: pd.DataFrame | None


def ablated(result: Result) -> Ablated:
    """The tables of a run of ablations."""
    effects = None
    if "effects" in result.config["study"]:
        effects = result.table("effects").to_pandas()
    return Ablated(result.table("accuracy").to_pandas(), effects)


@dataclass(frozen=True)
class TextTowards:
    """A text along a difference; the figures are those of ``compare/texts``."""

    text: str
    towards: str
    explained: float
    cumulative: float


@dataclass(frozen=True)
class PartApart:
    """How far two sets of images lie apart in a head, an MLP or the embedding.

    Attributes
    ----------
    name : str
        In words.
    component : str
    layer, head : int
    distance, chance, fisher, share : float
        As ``compare/parts`` has them.
    texts : tuple of TextTowards
        By rank.
    """

    name: str
    component: str
    layer: int
    head: int
    distance: float
    chance: float
    fisher: float
    share: float
    texts: tuple[TextTowards, ...]


@dataclass(frozen=True)
class Compared:
    """Two sets of images.

    Attributes
    ----------
    a, b : str
        The conditions.
    images_a, images_b, images_both : int
    shares : dict of str to float
        Of the difference of the embeddings, by component; ``else`` is what constants have.
    parts : tuple of PartApart
        The embedding, then by falling Fisher ratio.
    warnings : tuple of str
    """

    a: str
    b: str
    images_a: int
    images_b: int
    images_both: int
    shares: dict[str, float]
    parts: tuple[PartApart, ...]
    warnings: tuple[str, ...]


def part_name(component: str, layer: int, head: int) -> str:
    """``layer 3, head 0``, ``the start``, ``the MLP of layer 2``, ``the embedding``."""
    if component == "heads":
        return head_name(layer, head)
    if component == "embedding":
        return "the embedding"
    return "the start" if layer == 0 else f"the MLP of layer {layer - 1}"


def compared_sets(result: Result, top: int) -> Compared:
    """What a comparison found, with the first ``top`` texts of every part."""
    known, config = result.provenance, result.config
    return told_apart(
        config["a"], config["b"],
        (known["images_a"], known["images_b"], known["images_both"]),
        known["shares"], result.table("parts").to_pandas(), result.table("texts").to_pandas(), top,
    )  # fmt: skip


def told_apart(
    a: str,
    b: str,
    counts: tuple[int, int, int],
    shares: dict[str, float],
    parts: pd.DataFrame,
    texts: pd.DataFrame,
    top: int,
) -> Compared:
    """Two sets by their tables.

    Parameters
    ----------
    a, b : str
        The conditions.
    counts : tuple of int
        Images in a, in b, in both.
    shares : dict of str to float
    parts, texts : DataFrame
        As ``tables.TWO_SETS`` has them.
    top : int
        Texts of every part.
    """
    at = ["component", "layer", "head"]
    rows: Any = parts.itertuples()
    ranked: Any = texts[texts["rank"] < top].sort_values([*at, "rank"]).itertuples()
    named: dict[tuple[Any, ...], list[TextTowards]] = {}
    for row in ranked:
        text = TextTowards(row.text, row.towards, row.explained, row.cumulative)
        named.setdefault((row.component, row.layer, row.head), []).append(text)
    found = [
        PartApart(
            part_name(row.component, row.layer, row.head), row.component, row.layer, row.head,
            row.distance, row.chance, row.fisher, row.share,
            tuple(named.get((row.component, row.layer, row.head), ())),
        )
        for row in rows
    ]  # fmt: skip
    # What never varies inside the sets stands first: nothing tells them apart more clearly.
    found.sort(key=lambda part: (part.component != "embedding", -_clear(part)))
    return Compared(a, b, *counts, shares, tuple(found), _doubts(*counts))


def _clear(part: PartApart) -> float:
    return part.fisher if not math.isnan(part.fisher) else math.inf if part.distance else 0.0


def _doubts(a: int, b: int, both: int) -> tuple[str, ...]:
    """What two sets leave unsure."""
    said = []
    if both:
        said.append(f"{both:,} of the images are in both sets, which then lie closer than they are")
    for name, count in (("a", a), ("b", b)):
        if count == 1:
            said.append(f"set {name} is one image: how it varies is not known, and counts as 0")
    return tuple(said)
