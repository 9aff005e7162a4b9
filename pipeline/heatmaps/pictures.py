"""Pictures with their masks, decoded; no torch, so that tasks that only decode stay small."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.images.load import LoadedImages, load_rows
from pipeline.images.masks import LoadedMasks, MaskSource, load_masks
from pipeline.images.resize import Resize
from pipeline.subsets import parse_where
from storage import urls
from storage.images import read_rows
from storage.tables import StoreTables

from .choices import Protocol


@dataclass(frozen=True)
class Masked:
    """Some pictures of a store, and their masks.

    Attributes
    ----------
    images : (n,) int64
        Their numbers in the store.
    keys : list of str
    labels : list
        What the image table has in the column of labels; None where nothing.
    loaded : LoadedImages
    masks : LoadedMasks
    """

    images: NDArray[np.int64]
    keys: list[str]
    labels: list[Any]
    loaded: LoadedImages
    masks: LoadedMasks

    @property
    def read(self) -> pa.Table:
        """What became of the pictures, as the ledger has it."""
        loaded = self.loaded
        return pa.table({"ok": loaded.ok, "sha256": loaded.sha256, "error": loaded.error})

    def kept(self, keep: NDArray[np.bool_], pixels: Any) -> Kept:
        """Some of them, of which nothing is amiss; ``pixels`` are those of all."""
        masks = {protocol: masks_nhw[keep] for protocol, masks_nhw in self.masks.masks.items()}
        at = np.flatnonzero(keep).tolist()
        keys, labels = ([values[i] for i in at] for values in (self.keys, self.labels))
        return Kept(self.images[keep], keys, labels, pixels[keep], masks)


@dataclass(frozen=True)
class Kept:
    """Pictures that are held to their masks.

    Attributes
    ----------
    images : (n,) int64
    keys, labels : list
    pixels : (n, height, width, 3) uint8
        On the device of whoever makes maps of them.
    masks : dict of str to (n, height, width) uint8
        By protocol.
    """

    images: NDArray[np.int64]
    keys: list[str]
    labels: list[Any]
    pixels: Any
    masks: dict[str, NDArray[np.uint8]]


def chosen_images(tables: StoreTables, shard: int, where: str | None) -> NDArray[np.int64]:
    """Numbers of a shard's images that a condition picks, bad ones among them."""
    start, stop = tables.meta.rows(shard)
    if where is None:
        return np.arange(start, stop)
    rows = tables.images(start, stop)
    return rows.filter(parse_where(where, rows.schema))["index"].to_numpy()


def load_masked(
    url: str,
    images: NDArray[np.int64],
    source: MaskSource,
    resize: Resize,
    protocols: tuple[Protocol, ...],
    label_column: str,
) -> Masked:
    """Read and decode some images of a store's image table, in rising order, and their masks."""
    first = int(images[0])
    rows = read_rows(url, first, int(images[-1]) + 1).take(images - first)
    loaded = load_rows(rows, resize, (resize.height, resize.width), resize.on_card)
    sizes = list(zip(loaded.width, loaded.height, strict=True))
    masks = load_masks(rows, source, resize, protocols, sizes)
    labels = rows[label_column].to_pylist()
    return Masked(images, rows["key"].to_pylist(), labels, loaded, masks)


def masked_calls(
    url: str, images: NDArray[np.int64], size: int, *shared: Any
) -> Sequence[tuple[Any, ...]]:
    """Calls of ``load_masked`` that give these images, up to ``size`` at a time."""
    return [
        (load_masked, url, images[at : at + size], *shared) for at in range(0, len(images), size)
    ]


def masks_digest(source: MaskSource) -> str:
    """What tells masks from others: names, sizes and times of their files, unopened."""
    if not source.url:
        return source.kind
    return hashlib.sha256(json.dumps(urls.stamps(source.url)).encode()).hexdigest()
