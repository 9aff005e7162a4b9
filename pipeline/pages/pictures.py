"""Pictures inside a page, and maps over them."""

from __future__ import annotations

import base64
import io

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

# Pixels of a picture's longer side, at most; twice what it takes on a page.
SIDE = 192
# Larger pictures are photographs: as PNG they would weigh ten times as much.
LOSSLESS = 100
# Told apart by those who see no red or no green.
PLUS, MINUS = np.array([0.0, 120.0, 255.0]), np.array([255.0, 120.0, 0.0])


def data_url(image: Image.Image) -> str:
    """A picture as a part of a page."""
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= LOSSLESS else "webp"
    image.convert("RGB").save(buffer, format=kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def as_png(image: Image.Image) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="png")
    return buffer.getvalue()


def picture(image: Image.Image, about: str) -> Markup:
    """A picture as an element of a page; ``about`` says what it shows."""
    return Markup('<img src="{}" alt="{}">').format(data_url(image), about)


def small(pixels: NDArray[np.uint8]) -> Image.Image:
    """A picture, no larger than a page shows it."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    return image


def heat(
    pixels: NDArray[np.uint8],
    map_hw: NDArray[np.floating],
    between: Image.Resampling = Image.Resampling.NEAREST,
) -> Image.Image:
    """A picture, no larger than a page shows it, under a map: see `overlay`.

    Parameters
    ----------
    between : Resampling
        How the map is brought to the picture's size.
    """
    return overlay(small(pixels), map_hw, between)


def overlay(
    image: Image.Image,
    map_hw: NDArray[np.floating],
    between: Image.Resampling = Image.Resampling.NEAREST,
) -> Image.Image:
    """A picture in grey under a map, −1 … 1: blue where it is positive, orange where negative."""
    grey = np.asarray(image.convert("L"), float)[..., None].repeat(3, -1) * 0.8 + 30
    wide = Image.fromarray(map_hw.astype(np.float32)).resize(image.size, between)
    strength = np.clip(np.asarray(wide), -1, 1)[..., None]
    colour = np.where(strength > 0, PLUS, MINUS)
    return Image.fromarray((grey + 0.85 * np.abs(strength) * (colour - grey)).astype(np.uint8))
