"""The dictionary of concepts that models share, with pictures (*Rosetta Neurons*, Fig. 4.1-4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from pipeline.pages.fragments import render
from pipeline.pages.html import Section, section
from pipeline.pages.pictures import heat, picture, small
from storage.rosetta import Card

from .models import unit_maps
from .replay import Mined, replay

CONCEPTS, EXAMPLES, IMAGES = 20, 6, 256


@dataclass(frozen=True)
class Member:
    """A unit of one model in a concept; for the hub ``correlation`` is 1."""

    model: str
    layer: str
    unit: int
    correlation: float
    replicates: bool

    @property
    def name(self) -> str:
        """The model's, without what its weights are."""
        return self.model.partition("@")[0]

    @property
    def place(self) -> str:
        return f"unit {self.unit} of {self.layer}"

    def said(self, hub: bool) -> str:
        """Where it stands, and how well it goes with the hub's."""
        halves = "in both halves" if self.replicates else "not in both halves"
        how = "the hub" if hub else f"correlation {self.correlation:.2f}, {halves}"
        return f"{self.name}, {self.place}: {how}"


@dataclass(frozen=True)
class Concept:
    """One concept: a unit of the hub, and its best match in each other model.

    Attributes
    ----------
    number : int
        As in the result's table.
    members : tuple of Member
        The hub first.
    """

    number: int
    members: tuple[Member, ...]

    @property
    def replicates(self) -> bool:
        return all(m.replicates for m in self.members)

    @property
    def strength(self) -> float:
        """Correlation of the weakest of its matches."""
        return min(m.correlation for m in self.members[1:])


def concepts_of(table: pd.DataFrame, hub: str) -> list[Concept]:
    """Every concept once, those that both halves show first, then by falling correlation.

    Parameters
    ----------
    table : DataFrame
        The result's ``concepts``.
    """
    best: dict[int, Concept] = {}
    ordered = table.sort_values(["replicates", "correlation"], ascending=False, kind="stable")
    for _, rows in ordered.groupby(["concept", "hub_layer", "hub_unit"], sort=True):
        number, layer, unit = rows[["concept", "hub_layer", "hub_unit"]].iloc[0]
        first = rows.drop_duplicates("model").sort_index()
        columns = ["model", "layer", "unit", "correlation", "replicates"]
        matches = [Member(*row) for row in first[columns].itertuples(index=False, name=None)]
        found = Concept(int(number), (Member(hub, str(layer), int(unit), 1.0, True), *matches))
        other = best.get(found.number)
        if other is None or _rank(found) < _rank(other):
            best[found.number] = found
    return sorted(best.values(), key=_rank)


def _rank(concept: Concept) -> tuple[bool, float, int]:
    return not concept.replicates, -concept.strength, concept.number


def unit_number(card: Card, layer: str, unit: int) -> int:
    """A channel's number through the layers of the card."""
    return card.offsets[[x.name for x in card.layers].index(layer)] + unit


@dataclass(frozen=True, eq=False)
class Entry:
    """A concept with its pictures.

    Attributes
    ----------
    concept : Concept
    keys : list of str
        Of its examples, the strongest first.
    pixels : list of (height, width, 3) uint8
    maps : list of (examples, height, width) float32
        One a member, 0 … 1 within a unit over the examples.
    """

    concept: Concept
    keys: list[str]
    pixels: list[NDArray[np.uint8]] = field(metadata={"picture": True})
    maps: list[NDArray[np.float32]] = field(metadata={"picture": True})


def entries(found: Mined, concepts: Sequence[Concept], images: int = IMAGES) -> list[Entry]:
    """Examples of each concept: the images on which the hub's unit is strongest somewhere.

    Only examples are held: memory does not grow with ``images``.
    """
    kept: list[list[tuple[float, str, Any, list[Any]]]] = [[] for _ in concepts]
    numbers = {
        name: [
            unit_number(model.card, m.layer, m.unit)
            for c in concepts
            for m in c.members
            if m.model == name
        ]
        for name, model in found.models.items()
    }
    for batch in replay(found.url, found.setup, found.models, images, found.changed):
        maps = {
            name: unit_maps(model, batch.inputs[name], numbers[name]).cpu().numpy()
            for name, model in found.models.items()
        }
        for place, concept in enumerate(concepts):
            peaks = maps[found.hub][:, place].max((1, 2))
            for i in np.argsort(-peaks, kind="stable")[:EXAMPLES]:
                planes = [maps[m.model][i, place].copy() for m in concept.members]
                shown = (float(peaks[i]), str(batch.rows[i]["key"]), batch.pixels[i], planes)
                kept[place].append(shown)
            kept[place] = sorted(kept[place], key=lambda s: -s[0])[:EXAMPLES]
    return [
        Entry(
            concept,
            [key for _, key, _, _ in shown],
            [pixels for _, _, pixels, _ in shown],
            [unit_range(np.stack(planes)) for planes in zip(*(s[3] for s in shown), strict=True)],
        )
        for concept, shown in zip(concepts, kept, strict=True)
        if shown
    ]


def unit_range(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """A unit's maps brought to 0 … 1 over all its examples; 0 where it does not vary."""
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)


def figure(entry: Entry) -> Markup:
    """The examples, and below them every model's maps over them."""
    strips = [("images where the hub's unit is strongest", [
        picture(small(pixels), key) for pixels, key in zip(entry.pixels, entry.keys, strict=True)
    ])]  # fmt: skip
    for member, maps in zip(entry.concept.members, entry.maps, strict=True):
        tiles = [
            picture(heat(pixels, plane, Image.Resampling.BILINEAR), f"{key}: where the unit fires")
            for pixels, plane, key in zip(entry.pixels, maps, entry.keys, strict=True)
        ]
        strips.append((member.said(hub=not strips[1:]), tiles))
    return render("concept.html", strips=strips)


def about(concept: Concept, truth: pd.DataFrame | None) -> tuple[str, str]:
    """A title that says what a concept is, as far as that is known, and the sentence below it.

    Parameters
    ----------
    truth : DataFrame or None
        As ``tables.TRUTH`` has it.
    """
    halves = "in both halves of the images" if concept.replicates else "but not in both halves"
    found = f"Correlation of the weakest match: {concept.strength:.2f}, {halves}."
    name = f"Concept {concept.number}"
    if truth is not None:
        rows = truth[(truth["pairing"] == "shared") & (truth["concept"] == concept.number)]
        for row in rows.to_dict("records"):
            value = f"{row['attribute']} {row['value']}"
            chance = truth.loc[truth["pairing"] == "random", "auc"].mean()
            agree = "all models agree" if row["agrees"] else "not every model's unit tells it best"
            told = (
                f"Its units tell {value} with a mean AUC of {row['auc']:.2f} (random units what "
                f"they tell best: {chance:.2f}; 0.5 tells nothing); {agree}. "
            )
            return f"{name}: {'' if row['agrees'] else 'nearest to '}{value}", told + found
    hub = concept.members[0]
    return f"{name}: {hub.place} in {hub.name}", found


def best_and_worst(concepts: Sequence[Concept], count: int) -> list[Concept]:
    """So many concepts, in their order: the first of them, one in five of them from the end."""
    if len(concepts) <= count:
        return list(concepts)
    last = max(count // 5, 1)
    return [*concepts[: count - last], *concepts[-last:]]


def dictionary_sections(found: Sequence[Entry], truth: pd.DataFrame | None) -> list[Section]:
    """A section each, in the order given; pictures lie inside the page."""
    sections = []
    for entry in found:
        title, said = about(entry.concept, truth)
        name = f"concept-{entry.concept.number}"
        sections.append(section(title, name=name, found=said, plot=[figure(entry)]))
    return sections
