"""What a decoding task hands to the model: a run of images with their keys and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from storage.images import read_rows

from .load import LoadedImages, load_rows
from .masks import LoadedMasks, MaskSource, load_masks
from .resize import Resize


@dataclass(frozen=True)
class Batch:
    """A run of images, decoded: pictures, what became of each, and its key and label."""

    start: int
    loaded: LoadedImages
    keys: list[str]
    labels: list[str]


def load_batch(url: str, start: int, stop: int, resize: Resize) -> Batch:
    """Read and decode images ``start … stop-1`` of a store's image table."""
    return _batch(read_rows(url, start, stop), start, resize)


def _batch(rows: pa.Table, start: int, resize: Resize) -> Batch:
    labels = ["" if v is None else v for v in rows["label"].to_pylist()]
    loaded = load_rows(rows, resize, (resize.height, resize.width))
    return Batch(start, loaded, rows["key"].to_pylist(), labels)


def batch_calls(
    url: str, start: int, stop: int, size: int, resize: Resize
) -> list[tuple[Any, ...]]:
    """Calls of ``load_batch`` that give images ``start … stop-1``, up to ``size`` at a time."""
    return [
        (load_batch, url, first, min(first + size, stop), resize)
        for first in range(start, stop, size)
    ]


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """A run of images with their masks."""

    masks: LoadedMasks


def load_masked_batch(
    url: str,
    start: int,
    stop: int,
    resize: Resize,
    source: MaskSource,
    protocols: Sequence[str],
) -> MaskedBatch:
    """The same with the images' masks, by protocol (keys of ``masks.PROTOCOLS``)."""
    rows = read_rows(url, start, stop)
    batch = _batch(rows, start, resize)
    sizes = list(zip(batch.loaded.width, batch.loaded.height, strict=True))
    masks = load_masks(rows, source, resize, protocols, sizes)
    return MaskedBatch(batch.start, batch.loaded, batch.keys, batch.labels, masks)
