"""The embedded world's renderer as a text-to-image model: it draws what a description names.

What a description leaves open is drawn evenly, each attribute by itself, as in the ``val`` split:
nothing is planted here. What the picture shows is known, so nobody need look whether the drawn
class is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.microworld.captions import OPENING, PLURAL, SETTING, WHERE
from pipeline.microworld.draw import draw_scene
from pipeline.microworld.words import microworld_values
from pipeline.microworld.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    layout,
    tilts,
)
from storage.errors import FacetError

# Of a lone object's name: what it may be called where its shape is left open.
THING = "thing"
_PLURALS = {PLURAL.get(shape, f"{shape}s") for shape in (*SHAPES, THING)}
# Words that name nothing to be drawn.
_BETWEEN = frozenset(["a", "an", "and", "at", "in", "of", "on", "the", "with"])
# What captions say in several words, the longest first, with the value that it names.
_PHRASES: list[tuple[str, tuple[str, str] | None]] = sorted(
    [
        *((said, ("background", name)) for name, ways in SETTING.items() for said in ways),
        *((said, ("place", name)) for name, ways in WHERE.items() for said in ways),
        *((said.strip(), None) for said in OPENING if said),
    ],
    key=lambda phrase: -len(phrase[0]),
)


class CannotDraw(FacetError):
    """A description names what the embedded world does not have, or does not have together."""


@dataclass(frozen=True)
class Wanted:
    """What a description names.

    Attributes
    ----------
    values : dict of str to str
        By attribute, but for ``count``.
    counts : tuple of int
        How many objects it may be.
    """

    values: Mapping[str, str]
    counts: tuple[int, ...]


def read(text: str) -> Wanted:
    """What a description names.

    Raises
    ------
    CannotDraw
        If there is no word for a shape (or ``thing``), if a word is unknown, if two values of one
        attribute are named, or a place for several objects, which fill the picture.
    """
    rest = " ".join(re.findall(r"\w+", text.lower()))
    named: set[tuple[str, str]] = set()
    for phrase, value in _PHRASES:
        rest, times = re.subn(rf"\b{phrase}\b", ",", rest)
        if times and value:
            named.add(value)
    words = rest.replace(",", " ").split()
    named |= {value for word in words for value in microworld_values(word)}
    nouns = [w for w in words if w in SHAPES or w in _PLURALS or w == THING]
    unknown = [
        word
        for word in words
        if word not in _BETWEEN and word not in nouns and not microworld_values(word)
    ]
    if unknown:
        raise CannotDraw(f"it cannot draw {', '.join(map(repr, dict.fromkeys(unknown)))}")
    if not nouns:
        raise CannotDraw("it names no shape")
    if len(set(nouns)) > 1 and {THING, f"{THING}s"} & set(nouns):
        raise CannotDraw(f"it names two things: {', '.join(dict.fromkeys(nouns))}")
    values: dict[str, str] = {}
    for attribute, one in sorted(named):
        if attribute in values:
            raise CannotDraw(f"it names two values of {attribute}: {values[attribute]}, {one}")
        values[attribute] = one
    said = values.pop("count", None)
    if said is not None:
        counts: tuple[int, ...] = (int(said),)
    else:
        counts = COUNTS[1:] if _PLURALS & set(nouns) else (1,)
    if "place" in values and 1 not in counts:
        raise CannotDraw(f"several things fill the picture, and it puts them {values['place']}")
    return Wanted(values, counts)


def scene_of(wanted: Wanted, rng: np.random.Generator) -> Scene:
    """A scene with all that is wanted; the rest is drawn, each value as likely as any other."""

    def one(attribute: str, values: tuple[str, ...]) -> str:
        drawn = values[rng.integers(len(values))]  # also where it is named: the rest is the same
        return wanted.values.get(attribute, drawn)

    count = wanted.counts[rng.integers(len(wanted.counts))]
    shape, colour, texture = one("shape", SHAPES), one("colour", COLOURS), one("texture", TEXTURES)
    size, background = one("size", SIZES), one("background", BACKGROUNDS)
    place = one("place", PLACES) if count == 1 else "middle"
    centres, radii = layout(rng, size, count, place)
    return Scene(
        shape, colour, texture, size, count, place, background, centres, radii, tilts(rng, count)
    )


def render(text: str, seed: int) -> tuple[NDArray[np.uint8], Scene]:
    """A picture of what a description names; the same seed draws the same.

    Returns
    -------
    pixels : (64, 64, 3) uint8
    scene : Scene
        The picture's truth.

    Raises
    ------
    CannotDraw
        As `read` does.
    """
    rng = np.random.default_rng(seed)
    scene = scene_of(read(text), rng)
    pixels, _ = draw_scene(scene, rng)
    return pixels, scene


def shows(scene: Scene, name: str) -> bool:
    """Whether a scene is of a class: a value of an attribute, or several with ``/`` between."""
    return set(name.split("/")) <= {str(value) for value in scene.labels().values()}


def is_class(name: str) -> bool:
    """Whether the embedded world has the class, so that its renderer knows it."""
    values = {str(value) for of in ATTRIBUTES.values() for value in of}
    return set(name.split("/")) <= values
