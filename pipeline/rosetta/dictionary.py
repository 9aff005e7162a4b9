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

from .answers import Concept, about
from .models import unit_maps
from .replay import Mined, replay

CONCEPTS, EXAMPLES, IMAGES = 20, 6, 256


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


def dictionary_sections(found: Sequence[Entry], truth: pd.DataFrame | None) -> list[Section]:
    """A section each, in the order given; pictures lie inside the page."""
    sections = []
    for entry in found:
        title, said = about(entry.concept, truth)
        name = f"concept-{entry.concept.number}"
        sections.append(section(title, name=name, found=said, plot=[figure(entry)]))
    return sections
