"""The embedded world's renderer as a text-to-image model: it draws what a description names.

That is one thing, or two of different shapes on one background.

What a description leaves open is drawn evenly, each attribute by itself, as in the ``val`` split:
nothing is planted here. What the picture shows is known, so nobody need look whether the drawn
class is there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.microworld.captions import OPENING, PLURAL, SETTING, WHERE
from pipeline.microworld.draw import draw_together
from pipeline.microworld.words import microworld_values
from pipeline.microworld.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    COUNTS,
    PLACES,
    SHAPES,
    Scene,
    layout,
    quarters,
    tilts,
)
from storage.errors import FacetError

# Of a lone object's name: what it may be called where its shape is left open.
THING = "thing"
_PLURALS = {PLURAL.get(shape, f"{shape}s") for shape in (*SHAPES, THING)}
_SHAPE_WORDS = {*SHAPES, THING, *_PLURALS}
# Words that name nothing to be drawn, and those of them that stand between two things.
_JOINTS = frozenset(["and", "with"])
_BETWEEN = _JOINTS | {"a", "an", "at", "in", "of", "on", "the"}
# Objects of a picture, at most: one in each quarter.
MOST = max(COUNTS)
# How far an object beside another thing may be from its quarter's centre, in pixels along each
# side: the corners of two large ones that are turned towards each other still do not meet.
APART = 0.5
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
    """What a description names of one thing.

    Attributes
    ----------
    values : dict of str to str
        By attribute, but for ``count``. Two things have the same background.
    counts : tuple of int
        How many objects it may be.
    """

    values: Mapping[str, str]
    counts: tuple[int, ...]


def read(text: str) -> tuple[Wanted, ...]:
    """The thing that a description names, or the two: ``a star and a checked circle on snow``.

    Raises
    ------
    CannotDraw
        If there is no word for a shape (or ``thing``), if a word is unknown, if two values of one
        attribute are named of one thing, more than two shapes, a place for several objects, which
        fill the picture, or more than four of them.
    """
    rest = " ".join(re.findall(r"\w+", text.lower()))
    shared: set[tuple[str, str]] = set()
    for phrase, value in _PHRASES:
        rest, times = re.subn(rf"\b{phrase}\b", " ", rest)
        if times and value:
            shared.add(value)
    words = rest.split()
    nouns = [w for w in words if w in _SHAPE_WORDS]
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
    shapes = list(dict.fromkeys(dict(microworld_values(noun)).get("shape") for noun in nouns))
    if len(shapes) > 2:
        raise CannotDraw(f"it names more than two shapes: {', '.join(map(str, shapes))}")
    things = _each(words) if len(shapes) == 2 else [words]
    if len(things) > 2:
        raise CannotDraw(f"it names more than two things: {', '.join(nouns)}")
    named = [{value for word in thing for value in microworld_values(word)} for thing in things]
    shared |= {value for of in named for value in of if value[0] in ("background", "place")}
    wanted = tuple(
        _wanted(of | shared, bool(_PLURALS & set(thing)))
        for of, thing in zip(named, things, strict=True)
    )
    if "place" in wanted[0].values and (len(wanted) > 1 or 1 not in wanted[0].counts):
        place = wanted[0].values["place"]
        raise CannotDraw(f"several things fill the picture, and it puts them {place}")
    if not _together(wanted):
        raise CannotDraw(f"it names more than {MOST} things")
    return wanted


def _each(words: list[str]) -> list[list[str]]:
    """The words of each thing: what stands between two ands is of the shape that follows."""
    things: list[list[str]] = [[]]
    for word in words:
        if word in _JOINTS and set(things[-1]) & _SHAPE_WORDS:
            things.append([])
        things[-1].append(word)
    if len(things) > 1 and not set(things[-1]) & _SHAPE_WORDS:
        things[-2:] = [things[-2] + things[-1]]
    return things


def _wanted(named: set[tuple[str, str]], several: bool) -> Wanted:
    """What is named of one thing, and whether it is named in the plural."""
    values: dict[str, str] = {}
    for attribute, one in sorted(named):
        if attribute in values:
            raise CannotDraw(f"it names two values of {attribute}: {values[attribute]}, {one}")
        values[attribute] = one
    said = values.pop("count", None)
    counts = (int(said),) if said is not None else COUNTS[1:] if several else (1,)
    return Wanted(values, counts)


def _together(wanted: Sequence[Wanted]) -> list[tuple[int, ...]]:
    """How many of each thing there may be, for all to have room."""
    counts = itertools.product(*(of.counts for of in wanted))
    return [some for some in counts if sum(some) <= MOST]


def scenes_of(wanted: Sequence[Wanted], rng: np.random.Generator) -> tuple[Scene, ...]:
    """A scene with all that is wanted of each thing, which makes one picture of two.

    What is open is drawn, each value as likely as any other; of numbers, each that has room beside
    the other. Two things stand in quarters of the picture, as groups do, and never overlap.
    """

    def one(of: Wanted, attribute: str, values: tuple[str, ...]) -> str:
        drawn = values[rng.integers(len(values))]  # also where it is named: the rest is the same
        return of.values.get(attribute, drawn)

    may_be = _together(wanted)
    counts = may_be[rng.integers(len(may_be))]
    looks = [
        {name: one(of, name, ATTRIBUTES[name]) for name in ("shape", "colour", "texture", "size")}
        for of in wanted
    ]
    background = one(wanted[0], "background", BACKGROUNDS)
    place = one(wanted[0], "place", PLACES) if sum(counts) == 1 else "middle"
    sizes = [look["size"] for look, count in zip(looks, counts, strict=True) for _ in range(count)]
    if len(wanted) == 1:
        centres, radii = layout(rng, sizes[0], len(sizes), place)
    else:
        centres, radii = quarters(rng, sizes, APART)
    angles = tilts(rng, len(sizes))
    ends = itertools.accumulate(counts)
    return tuple(
        Scene(
            **look, count=count, place=place, background=background, centres=centres[at],
            radii=radii[at], angles=angles[at],
        )
        for look, count, at in zip(
            looks, counts, (slice(e - c, e) for e, c in zip(ends, counts, strict=True)), strict=True
        )
    )  # fmt: skip


def render(text: str, seed: int) -> tuple[NDArray[np.uint8], tuple[Scene, ...]]:
    """A picture of what a description names; the same seed draws the same.

    Returns
    -------
    pixels : (64, 64, 3) uint8
    scenes : tuple of Scene
        The picture's truth, of each thing that the description names, in its order.

    Raises
    ------
    CannotDraw
        As `read` does.
    """
    rng = np.random.default_rng(seed)
    scenes = scenes_of(read(text), rng)
    pixels, _ = draw_together(scenes, rng)
    return pixels, scenes


def shows(scenes: Sequence[Scene], name: str) -> bool:
    """Whether a picture is of a class: a value of an attribute, or several with ``/`` between.

    It is if one of its things is; but of numbers, there are as many as all things together.
    """
    total = {"count": sum(scene.count for scene in scenes)}
    wanted = set(name.split("/"))
    return any(
        wanted <= {str(value) for value in {**scene.labels(), **total}.values()} for scene in scenes
    )


def is_class(name: str) -> bool:
    """Whether the embedded world has the class, so that its renderer knows it."""
    values = {str(value) for of in ATTRIBUTES.values() for value in of}
    return set(name.split("/")) <= values
