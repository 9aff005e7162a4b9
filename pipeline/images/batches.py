"""What a decoding task hands to the model: a run of images with their keys and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.images import read_rows

from .load import LoadedImages, load_rows
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
    rows = read_rows(url, start, stop)
    labels = ["" if v is None else v for v in rows["label"].to_pylist()]
    loaded = load_rows(rows, resize, (resize.height, resize.width), resize.on_card)
    return Batch(start, loaded, rows["key"].to_pylist(), labels)


def batch_calls(
    url: str, start: int, stop: int, size: int, resize: Resize
) -> list[tuple[Any, ...]]:
    """Calls of ``load_batch`` that give images ``start … stop-1``, up to ``size`` at a time."""
    return [
        (load_batch, url, first, min(first + size, stop), resize)
        for first in range(start, stop, size)
    ]
