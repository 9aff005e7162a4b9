"""A run of rows of the image table to pixels, bad images masked with their reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from .decode import to_image
from .errors import BadImage
from .read import ImageReader

Transform = Callable[[Image.Image], NDArray[np.uint8]]


@dataclass(frozen=True)
class LoadedImages:
    """Pixels of n images, and what became of each.

    Attributes
    ----------
    pixels : (n, height, width, 3) uint8
        Zeros where ``ok`` is false.
    ok : (n,) bool
    error : list of str or None
        The reason where ``ok`` is false.
    sha256 : list of str or None
        Of the encoded bytes (of the microworld, of the pixels); None if they could not
        be read.
    width, height : list of int
        Of the upright image before the transform; 0 where ``ok`` is false.
    """

    pixels: NDArray[np.uint8]
    ok: NDArray[np.bool_]
    error: list[str | None]
    sha256: list[str | None]
    width: list[int]
    height: list[int]


def load_rows(table: pa.Table, transform: Transform, size: tuple[int, int]) -> LoadedImages:
    """Read, decode and transform the images of ``table``, in order.

    Parameters
    ----------
    table : pyarrow.Table
        Rows of the image table (``uri``, ``offset``, ``length``).
    transform : callable
        The model's resize and crop: RGB image to (height, width, 3) uint8.
    size : (int, int)
        Height and width of the transformed image, pixels.

    Raises
    ------
    SourceUnavailable
        If the storage does not answer: that is no image's fault.
    """
    n = len(table)
    loaded = LoadedImages(
        pixels=np.zeros((n, *size, 3), np.uint8),
        ok=np.zeros(n, bool),
        error=[None] * n,
        sha256=[None] * n,
        width=[0] * n,
        height=[0] * n,
    )
    rows = table.select(["uri", "offset", "length"]).to_pylist()
    with ImageReader() as reader:
        for i, row in enumerate(rows):
            try:
                data = reader.read(row["uri"], row["offset"], row["length"])
                loaded.sha256[i] = hashlib.sha256(data).hexdigest()
                image = to_image(row, data)
            except BadImage as bad:
                loaded.error[i] = str(bad)
                continue
            pixels = transform(image)
            if pixels.shape != (*size, 3) or pixels.dtype != np.uint8:
                raise ValueError(
                    f"transform gave {pixels.dtype} {pixels.shape}; it must give uint8 {(*size, 3)}"
                )
            loaded.pixels[i] = pixels
            loaded.ok[i] = True
            loaded.width[i], loaded.height[i] = image.size
    return loaded
