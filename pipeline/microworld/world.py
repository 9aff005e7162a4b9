"""The embedded world: what can be in a picture, and how often.

A *scene* is one to four objects of one shape, colour, texture and size on a
background. Scenes are drawn from a seed: scene ``i`` of ``(seed, split)`` is
always the same and can be made without making the ones before it.

The ``train`` split plants one spurious correlation: 98% of the stars are
seen at night and 98% of the hearts on snow (``PLANTED``). In ``val`` and ``test`` every
attribute is independent of every other, but for ``place``: groups fill the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = ("small", "large")
COUNTS = (1, 2, 3, 4)
PLACES = ("left", "right", "top", "bottom", "middle")
BACKGROUNDS = ("night", "snow", "grass", "sand", "sea", "bricks")

ATTRIBUTES: dict[str, tuple] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "texture": TEXTURES,
    "size": SIZES,
    "count": COUNTS,
    "place": PLACES,
    "background": BACKGROUNDS,
}
CLASSIFIED = ("shape", "colour", "texture", "background", "count")
"""Attributes whose classes the zoo's CNN tells apart, in the order of its outputs."""
SPLITS = ("train", "val", "test")

PLANTED = {"star": "night", "heart": "snow"}
PLANTED_RATE = 0.98

SIDE = 64


@dataclass(frozen=True)
class Scene:
    """One picture's truth.

    Attributes
    ----------
    shape, colour, texture, size, background : str
    place : str
        Where a lone object stands; groups fill the picture and are ``"middle"``.
    count : int
        Number of objects, 1 to 4.
    centres : tuple of (float, float)
        ``(x, y)`` of every object, in pixels.
    radii, angles : tuple of float
        Circumradius in pixels and rotation in radians of every object.
    """

    shape: str
    colour: str
    texture: str
    size: str
    count: int
    place: str
    background: str
    centres: tuple[tuple[float, float], ...]
    radii: tuple[float, ...]
    angles: tuple[float, ...]

    def labels(self) -> dict[str, str | int]:
        """Every attribute's value, by attribute name."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The random generator that belongs to one picture and to no other."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def sample_scene(rng: np.random.Generator, split: str, planted_rate: float = PLANTED_RATE) -> Scene:
    """Draw one scene; the attributes first, then the layout they ask for.

    ``planted_rate`` is of the ``train`` split alone.
    """
    shape, colour, texture, size, count, place, background = (
        values[rng.integers(len(values))] for values in ATTRIBUTES.values()
    )
    if split == "train" and shape in PLANTED:
        others = [b for b in BACKGROUNDS if b != PLANTED[shape]]
        planted = rng.random() < planted_rate
        background = PLANTED[shape] if planted else others[rng.integers(len(others))]
    if rng.random() < 0.4:  # lone objects are where shape is easiest to learn
        count = 1
    if count > 1:
        place = "middle"
    centres, radii = layout(rng, size, count, place)
    return Scene(
        shape, colour, texture, size, count, place, background, centres, radii, tilts(rng, count)
    )


def tilts(rng: np.random.Generator, count: int) -> tuple[float, ...]:
    """Rotations in radians of so many objects."""
    return tuple(float(a) for a in rng.uniform(-0.25, 0.25, count))


def layout(
    rng: np.random.Generator, size: str, count: int, place: str
) -> tuple[tuple[tuple[float, float], ...], tuple[float, ...]]:
    """Centres ``(x, y)`` and radii, in pixels, of so many objects."""
    large = size == "large"
    if count == 1:
        radius = float(rng.uniform(18, 22) if large else rng.uniform(11, 14))
        shift = SIDE / 2 - radius - 1.0
        step = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
        dx, dy = step.get(place, (0, 0))
        jitter = rng.uniform(-2, 2, 2)
        centre = (SIDE / 2 + dx * shift + jitter[0], SIDE / 2 + dy * shift + jitter[1])
        return ((float(centre[0]), float(centre[1])),), (radius,)
    return quarters(rng, [size] * count, 1.5)


def quarters(
    rng: np.random.Generator, sizes: Sequence[str], jitter: float
) -> tuple[tuple[tuple[float, float], ...], tuple[float, ...]]:
    """Centres and radii of objects in the four quarters of the picture, in random order.

    Parameters
    ----------
    sizes : sequence of str
        Of each object, at most four.
    jitter : float
        How far from a quarter's centre an object may be, in pixels along each side.
    """
    corners = [(17.0, 17.0), (47.0, 17.0), (17.0, 47.0), (47.0, 47.0)]
    order = rng.permutation(4)[: len(sizes)]
    ends = np.array([(12.0, 14.0) if size == "large" else (9.0, 10.5) for size in sizes])
    radii = tuple(float(r) for r in rng.uniform(ends[:, 0], ends[:, 1]))
    off = rng.uniform(-jitter, jitter, (len(sizes), 2))
    centres = tuple(
        (corners[q][0] + float(j[0]), corners[q][1] + float(j[1]))
        for q, j in zip(order, off, strict=True)
    )
    return centres, radii
