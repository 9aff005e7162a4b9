"""Pictures read and decoded once, and resized for every model; free of torch.

Tasks that decode start in a moment and stay small.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.load import LoadedImages, load_rows
from pipeline.images.resize import Resize
from storage import ledger
from storage.images import read_rows

ROWS = ledger.SCHEMA.append(pa.field("key", pa.string()))


@dataclass(frozen=True)
class ResizedImages:
    """A run of images, resized for every model.

    Attributes
    ----------
    start : int
    pixels : dict of Resize to (n, height, width, 3) uint8
        Arrays, or tensors on a device.
    rows : pyarrow.Table
        Their rows of the ledger, and their keys.
    """

    start: int
    pixels: dict[Resize, Any]
    rows: pa.Table


@dataclass(frozen=True)
class Stacked:
    """Several resizes of one decoded picture, laid end to end as one row of pixels."""

    resizes: tuple[Resize, ...]

    @property
    def areas(self) -> list[int]:
        return [r.height * r.width for r in self.resizes]

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.concatenate([r(image).reshape(1, -1, 3) for r in self.resizes], axis=1)

    def parts(self, pixels: Any) -> dict[Resize, Any]:
        """(n, 1, total, 3), an array or a tensor, cut up again."""
        ends = np.cumsum(self.areas).tolist()
        return {
            r: pixels[:, 0, end - area : end].reshape(len(pixels), r.height, r.width, 3)
            for r, area, end in zip(self.resizes, self.areas, ends, strict=True)
        }


@dataclass(frozen=True)
class ReadImages:
    """A run of images that were read, and decoded unless that is left to a card.

    Attributes
    ----------
    start : int
    loaded : LoadedImages
    keys : list of str
    resizes : tuple of Resize
        Whose pixels lie end to end.
    """

    start: int
    loaded: LoadedImages
    keys: list[str]
    resizes: tuple[Resize, ...]

    def resized(self, pixels: Any = None) -> ResizedImages:
        """All of them for every model.

        Parameters
        ----------
        pixels : (n, 1, total, 3) uint8, optional
            Where they are on a device; else they stay here.
        """
        loaded = self.loaded
        if loaded.encoded is not None:
            from pipeline.images.card import settled  # brings torch

            loaded = settled(loaded, "cpu")
        columns = [loaded.ok, loaded.error, loaded.sha256, loaded.width, loaded.height]
        index = np.arange(self.start, self.start + len(self.keys))
        rows = pa.table([index, *columns, self.keys], schema=ROWS)
        parts = Stacked(self.resizes).parts(loaded.pixels if pixels is None else pixels)
        return ResizedImages(self.start, parts, rows)


def read_pictures(url: str, start: int, stop: int, resizes: tuple[Resize, ...]) -> ReadImages:
    """Read and decode images ``start … stop-1`` once, and resize them for every model."""
    stacked = Stacked(resizes)
    table = read_rows(url, start, stop)
    on_card = resizes if all(resize.on_card for resize in resizes) else ()
    loaded = load_rows(table, stacked, (1, sum(stacked.areas)), on_card)
    return ReadImages(start, loaded, table["key"].to_pylist(), resizes)


def load_pictures(url: str, start: int, stop: int, resizes: tuple[Resize, ...]) -> ResizedImages:
    """The same on this machine, for a few pictures."""
    return read_pictures(url, start, stop, resizes).resized()


def resized(pixels: NDArray[np.uint8], resizes: Iterable[Resize]) -> dict[Resize, NDArray]:
    """Pictures (n, height, width, 3) that are at hand, as ``load_pictures`` gives them."""
    images = [Image.fromarray(p) for p in pixels]
    return {r: np.stack([r(image) for image in images]) for r in resizes}


def seeds(start: int, stop: int) -> range:
    """The seeds of a run of images that a generator will make."""
    return range(start, stop)
