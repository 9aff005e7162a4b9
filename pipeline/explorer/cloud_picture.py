"""Points as a picture, at any zoom: how many images lie where, or what they are."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.explorer.cloud import Box, Cloud
from pipeline.explorer.colours import SEQUENTIAL

# A picture of no more points than this has them as discs of a radius, in pixels.
RADII = ((3_000, 4), (30_000, 2), (100_000, 1))
# Of the table of amounts, what a single point has: it is to be seen on the ground.
FAINTEST = 64
# The colour of a picture's ground, in every table of colours.
GROUND = 0


@dataclass(frozen=True, eq=False)
class Colouring:
    """What points are coloured by.

    Attributes
    ----------
    codes_n : (images of the store,) integers
        Rows of ``colours``; -1 of images that are not drawn.
    colours_c3 : (C, 3) uint8
        255 at the most.
    amounts : bool
        Whether colours are amounts, of which a place has the mean; else it has the colour of most
        of its points.
    """

    codes_n: NDArray[np.integer]
    colours_c3: NDArray[np.uint8]
    amounts: bool


def draw(
    cloud: Cloud, box: Box, width: int, height: int, colouring: Colouring | None = None
) -> bytes:
    """A picture of the points in a rectangle of the plane, as PNG.

    Without a colouring, the more images lie at a place the brighter it is, on a logarithmic scale
    up to the place that has most.

    Parameters
    ----------
    cloud : Cloud
    box : Box
        What the picture's edges are.
    width, height : int
        Pixels.
    colouring : Colouring, optional
    """
    places, images = _placed(cloud, box, width, height, colouring)
    size = width * height
    if colouring is None:
        count = np.bincount(places, minlength=size)
        bright = np.log(np.maximum(count, 1)) / max(np.log(max(count.max(), 1)), 1.0)
        index = np.where(count > 0, FAINTEST + (255 - FAINTEST) * bright, GROUND).astype(np.uint8)
        return _png(index.reshape(height, width), SEQUENTIAL)
    codes = colouring.codes_n[images]
    if colouring.amounts:
        count = np.bincount(places, minlength=size)
        total = np.bincount(places, weights=codes, minlength=size)
        shown = np.rint(total / np.maximum(count, 1)).astype(np.int64)
    else:
        kinds = len(colouring.colours_c3)
        # A place's points by colour, only where there are any: of the most, the first colour.
        both, many = np.unique(places.astype(np.int64) * kinds + codes, return_counts=True)
        order = np.lexsort((-both, many))
        count, shown = np.zeros(size, np.int64), np.zeros(size, np.int64)
        count[both // kinds] = 1
        shown[both[order] // kinds] = both[order] % kinds  # the last that is put stays
    index = np.where(count > 0, shown + 1, GROUND).astype(np.uint8)
    return _png(
        index.reshape(height, width), np.concatenate([SEQUENTIAL[:1], colouring.colours_c3])
    )


def _placed(
    cloud: Cloud, box: Box, width: int, height: int, colouring: Colouring | None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Pixels that points fall on, row by row of the picture, and whose images' they are."""
    x, y = cloud.along_pn[:2]
    across = (x - box.x0) * np.float32(width / (box.x1 - box.x0))
    down = (box.y1 - y) * np.float32(height / (box.y1 - box.y0))
    seen = (across >= 0) & (across < width) & (down >= 0) & (down < height)  # never of NaN
    if colouring is not None:
        seen &= colouring.codes_n >= 0
    images = np.flatnonzero(seen)
    columns, rows = across[images].astype(np.int32), down[images].astype(np.int32)
    radius = next((r for most, r in RADII if len(images) <= most), 0)
    if not radius:
        return rows * width + columns, images
    side = np.arange(-radius, radius + 1, dtype=np.int32)
    right, below = (a.ravel() for a in np.meshgrid(side, side))
    disc = right**2 + below**2 <= radius * (radius + 0.5)
    columns = (columns[:, None] + right[disc]).ravel()
    rows = (rows[:, None] + below[disc]).ravel()
    kept = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return (rows * width + columns)[kept], images.repeat(int(disc.sum()))[kept]


def _png(index_hw: NDArray[np.uint8], colours_c3: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(index_hw)
    image.putpalette(colours_c3.tobytes())
    out = io.BytesIO()
    image.save(out, "png", compress_level=1)
    return out.getvalue()
