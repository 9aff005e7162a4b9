"""Encoded bytes to RGB, the way users of Pillow expect."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.microworld.world import SIDE

from .errors import BadImage
from .micro import PREFIX
from .read import Reader

PIXEL_LIMIT = 89_478_485  # Pillow's own: a quarter of a gigabyte in RGB
RATIO_LIMIT = 200  # models resize the short side to theirs: a thread of pixels would explode


def read_bytes(row: Mapping[str, Any]) -> bytes:
    """The encoded image of one row of the image table, by one ranged read."""
    with Reader(read_ahead=0) as reader:
        return reader.read(row["uri"], row["offset"], row["length"])


def load_image(row: Mapping[str, Any]) -> Image.Image:
    """The RGB image of one row of the image table."""
    return to_image(row, read_bytes(row))


def to_image(row: Mapping[str, Any], data: bytes) -> Image.Image:
    """The RGB image of a row from its bytes (which the microworld gives as pixels)."""
    if row["uri"].startswith(PREFIX):
        return Image.frombytes("RGB", (SIDE, SIDE), data)
    return decode(data)


def decode(data: bytes) -> Image.Image:
    """The image in mode RGB.

    First frame of an animation; EXIF rotation applied; 16-bit grey scaled to 8 bits (65535
    becomes 255); transparency dropped as ``convert("RGB")`` drops it, after palettes became
    RGBA: the colour stored under a transparent pixel shows. Colour profiles are not applied.

    Raises
    ------
    BadImage
        With the reason: empty, not an image, truncated or damaged, more than
        ``PIXEL_LIMIT`` pixels, one side more than ``RATIO_LIMIT`` times the other, or
        pixel values without a fixed white (32-bit).
    """
    if not data:
        raise BadImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever matters becomes a reason below
            image = _open(data)
            image.load()
            return _to_rgb(_upright(image))
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # damaged bytes raise nearly anything inside the decoders
        said = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"truncated or damaged: {said}") from error


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as error:
        raise BadImage(
            f"not an image, or cut in its first bytes: it begins with {data[:12]!r}"
        ) from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"decompression bomb: {error}") from error
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        raise BadImage(
            f"decompression bomb: {width} x {height} pixels, the limit is {PIXEL_LIMIT:,}"
        )
    if max(width, height) > RATIO_LIMIT * min(width, height):
        raise BadImage(f"{width} x {height} pixels: one side is over {RATIO_LIMIT} times the other")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        # In place the pixels are turned before the tags are rewritten, which is what fails.
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        # Unreadable EXIF is common on the web; the picture itself is whole.
        return image
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    sixteen_bit = image.mode.startswith("I;16")
    # Pillow opens 16-bit PGM as 32-bit integers, already spread over 0..65535.
    if sixteen_bit or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadImage(f"32-bit pixels (mode {image.mode}) have no fixed white: save as 8 bit")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
