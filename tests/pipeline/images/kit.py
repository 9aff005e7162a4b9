"""Small images and tars for the tests of ``pipeline.images``."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.images.listing import list_images
from pipeline.images.load import load_rows
from pipeline.images.masks import PROTOCOLS, LoadedMasks, MaskSource, load_masks
from pipeline.images.resize import Resize


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(seed: int, width: int = 8, height: int = 6) -> Image.Image:
    """A picture whose pixels say which it is."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture of this height and width with shades and edges, as photographs have them."""
    height, width = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None] / np.array([height, width])[:, None, None, None]
    waves = np.sin(x * rng.uniform(2, 20, 3) + y * rng.uniform(2, 20, 3) + rng.uniform(0, 6, 3))
    pixels = 127.5 + 100 * waves
    pixels[height // 3 : height // 2, width // 4 :] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype("u1"))


def png(seed: int) -> bytes:
    return encode(picture(seed))


def listed(source: object) -> pa.Table:
    return pa.concat_tables(list_images(str(source)))


def masks_of(rows: pa.Table, source: MaskSource, resize: Resize, *protocols: str) -> LoadedMasks:
    """The masks of pictures; in place of what a caller has decoded they are decoded here."""
    loaded = load_rows(rows, resize, (resize.height, resize.width))
    sizes = list(zip(loaded.width, loaded.height, strict=True))
    return load_masks(rows, source, resize, protocols or tuple(PROTOCOLS), sizes)


class Listed:
    """As much of a store as its images are."""

    def __init__(self, rows: pa.Table) -> None:
        self.meta, self._rows = SimpleNamespace(images=len(rows)), rows

    def images(self, start: int, stop: int) -> pa.Table:
        return self._rows.slice(start, stop - start)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
