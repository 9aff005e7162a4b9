"""The dictionary of concepts that models share, with pictures (*Rosetta Neurons*, Fig. 4.1-4.2)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.pages.figures import png
from pipeline.pages.html import Section, data_url, section
from storage.rosetta import Card

from .models import unit_maps
from .replay import Mined, replay

CONCEPTS, EXAMPLES, IMAGES = 20, 6, 256
TILE = 96  # pixels of a picture in a figure


@dataclass(frozen=True)
class Member:
    """A unit of one model in a concept; for the hub ``correlation`` is 1."""

    model: str
    layer: str
    unit: int
    correlation: float
    replicates: bool


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


def figure(entry: Entry) -> Figure:
    """Examples in columns; the pictures, then every model's maps over them."""
    pictures = [np.asarray(Image.fromarray(p).resize((TILE, TILE))) for p in entry.pixels]
    rows = [np.concatenate(pictures, 1) / 255.0]
    for maps in entry.maps:
        tiles = []
        for picture, plane in zip(pictures, maps, strict=True):
            wide = Image.fromarray(plane).resize((TILE, TILE), Image.Resampling.BILINEAR)
            heat = colormaps["inferno"](np.asarray(wide))[..., :3]
            tiles.append(0.3 * picture.mean(-1, keepdims=True) / 255 + 0.7 * heat)
        rows.append(np.concatenate(tiles, 1))
    drawn = Figure(figsize=(2.6 + 1.1 * len(pictures), 1.1 * len(rows) + 0.4), layout="constrained")
    axis = drawn.subplots()
    axis.imshow(np.concatenate(rows))
    names = [
        f"{m.model.partition('@')[0]}\n{m.layer}\nunit {m.unit}" for m in entry.concept.members
    ]
    axis.set_yticks(
        TILE * (np.arange(len(rows)) + 0.5), ["image", *names], size=7, parse_math=False
    )
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.set_frame_on(False)
    axis.set_title(_title(entry.concept), size=10)
    return drawn


def _title(concept: Concept) -> str:
    said = "in both halves" if concept.replicates else "not in both halves"
    return f"Concept {concept.number}: correlation {concept.strength:.2f}, {said}"


def pictures_of(found: Sequence[Entry]) -> dict[str, bytes]:
    """A PNG of every entry, by file name."""
    return {f"concept-{e.concept.number:05d}.png": png(figure(e)) for e in found}


def dictionary_sections(found: Sequence[Entry], pictures: dict[str, bytes]) -> list[Section]:
    """A section each, in the order given; pictures lie inside the page."""
    return [
        section(
            _title(entry.concept),
            plot=data_url(Image.open(io.BytesIO(pictures[name]))),
            header=("model", "layer", "unit", "correlation", "in both halves"),
            rows=[
                (m.model, m.layer, m.unit, f"{m.correlation:.3f}" if i else "hub",
                 ("yes" if m.replicates else "no") if i else "")
                for i, m in enumerate(entry.concept.members)
            ],
        )
        for entry, name in zip(found, pictures, strict=True)
    ]  # fmt: skip
