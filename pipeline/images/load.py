"""A run of rows of the image table to pixels, bad images masked with their reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from .decode import plain_jpeg, to_image
from .errors import BadImage
from .micro import PREFIX
from .read import ImageReader
from .resize import Resize

Transform = Callable[[Image.Image], NDArray[np.uint8]]


@dataclass(frozen=True)
class Encoded:
    """JPEGs among a run of images that are left for the card to decode.

    Attributes
    ----------
    resizes : tuple of Resize
        Whose pixels are wanted, end to end.
    rows, turns, ends : list of int
        Which images; how EXIF has them turned; where each one's bytes end.
    data : (bytes,) uint8
        Of all, end to end.
    """

    resizes: tuple[Resize, ...]
    rows: list[int]
    turns: list[int]
    ends: list[int]
    data: NDArray[np.uint8]

    def files(self) -> list[NDArray[np.uint8]]:
        """Each one's bytes."""
        return np.split(self.data, self.ends[:-1])


@dataclass(frozen=True)
class LoadedImages:
    """Pixels of n images, and what became of each.

    Attributes
    ----------
    pixels : (n, height, width, 3) uint8
        Zeros where ``ok`` is false. Where some are left encoded, of the others alone.
    ok : (n,) bool
    error : list of str or None
        The reason where ``ok`` is false.
    sha256 : list of str or None
        Of the encoded bytes (of the microworld, of the pixels); None if they could not
        be read.
    width, height : list of int
        Of the upright image before the transform; 0 where ``ok`` is false.
    encoded : Encoded or None
        What is still to be decoded, ``ok`` by its header: see ``card.py``.
    """

    pixels: NDArray[np.uint8]
    ok: NDArray[np.bool_]
    error: list[str | None]
    sha256: list[str | None]
    width: list[int]
    height: list[int]
    encoded: Encoded | None = None


def load_rows(
    table: pa.Table, transform: Transform, size: tuple[int, int], on_card: Sequence[Resize] = ()
) -> LoadedImages:
    """Read, decode and transform the images of ``table``, in order.

    Parameters
    ----------
    table : pyarrow.Table
        Rows of the image table (``uri``, ``offset``, ``length``).
    transform : callable
        The model's resize and crop: RGB image to (height, width, 3) uint8.
    size : (int, int)
        Height and width of the transformed image, pixels.
    on_card : sequence of Resize
        What ``transform`` does, if JPEGs are to be left for the card, those that it reads as
        Pillow does.

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
    left: dict[int, tuple[int, bytes]] = {}
    with ImageReader() as reader:
        for i, row in enumerate(rows):
            try:
                data = reader.read(row["uri"], row["offset"], row["length"])
                loaded.sha256[i] = hashlib.sha256(data).hexdigest()
                if on_card and not row["uri"].startswith(PREFIX) and (of := plain_jpeg(data)):
                    left[i] = of[0], data
                    loaded.ok[i] = True
                    loaded.width[i], loaded.height[i] = of[1]
                    continue
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
    if not left:
        return loaded
    turns, files = zip(*left.values(), strict=True)
    encoded = Encoded(
        tuple(on_card), list(left), list(turns), np.cumsum([len(file) for file in files]).tolist(),
        np.frombuffer(b"".join(files), np.uint8),
    )  # fmt: skip
    return replace(loaded, pixels=np.delete(loaded.pixels, encoded.rows, 0), encoded=encoded)
