"""Queries in a space: images of the store, and pictures that it need not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.parts import StoredParts
from pipeline.images.decode import decode
from storage import ledger, urls
from storage.errors import FacetError
from storage.layout import CONTRIBUTIONS
from storage.store import Store

from .coordinates import Coordinates

if TYPE_CHECKING:  # images of the store are searched for without torch
    from pipeline.models import VisionModel

# Images whose parts are held at once, and pictures of one pass of the model.
AT_ONCE, PICTURES_AT_ONCE = 256, 32


def refuse_nothing(store: Store, images: Sequence[int]) -> None:
    """Refuse images that the store has nothing of.

    Raises
    ------
    FacetError
        If one was bad when it was extracted, or its shard is not finished.
    """
    size, done = store.meta.shard_size, store.done_shards()
    for shard in sorted({image // size for image in images}):
        of_shard = sorted(image for image in images if image // size == shard)
        if shard not in done:
            raise FacetError(f"`image` {of_shard[0]}: its shard {shard} is not extracted yet")
        rows = ledger.read_part(store.data, shard)
        for image in of_shard:
            if not rows["ok"][image - shard * size].as_py():
                error = rows["error"][image - shard * size].as_py()
                raise FacetError(f"`image` {image}: the store has nothing of it: {error}")


def image_vectors(
    store: Store, coordinates: Coordinates, images: Sequence[int]
) -> NDArray[np.float32]:
    """Images of a store that are ok, (images, width), not centred."""
    space = coordinates.space
    data: Any = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    meta, numbers = store.meta, np.unique(np.asarray(images, np.int64))
    layers = sorted({layer for layer, _ in space.heads})
    found = np.zeros((len(numbers), coordinates.width), np.float32)
    for first in range(0, len(numbers), AT_ONCE):
        some = numbers[first : first + AT_ONCE]
        heads = np.zeros((len(some), meta.layers, meta.heads, meta.head_dim), np.float32)
        mlps = np.zeros((len(some), meta.layers + 1, meta.width if space.blocks else 0), np.float32)
        for layer in layers:  # each is a chunk of its own
            heads[:, layer] = data["heads"].oindex[some, [layer]][:, 0]
        for block in space.blocks:
            mlps[:, block] = data["mlps"].oindex[some, [block]][:, 0]
        parts = StoredParts(
            heads, mlps, data["embedding"].oindex[some], data["ln_std"].oindex[some]
        )
        found[first : first + AT_ONCE] = coordinates.parts(parts)
    return found[np.searchsorted(numbers, np.asarray(images, np.int64))]


def picture_vectors(
    model: VisionModel, coordinates: Coordinates, pictures: Sequence[bytes]
) -> NDArray[np.float32]:
    """Picture files, each passed once through the store's model, (pictures, width), not centred."""
    import torch

    from pipeline.extraction.decompose import Decomposer

    decompose = Decomposer(model)
    found = []
    for first in range(0, len(pictures), PICTURES_AT_ONCE):
        some = pictures[first : first + PICTURES_AT_ONCE]
        pixels = np.stack([model.preprocess.to_uint8(decode(picture)) for picture in some])
        wrote = decompose(model.preprocess.to_tensor(torch.from_numpy(pixels).to(model.device)))
        found.append(coordinates.parts(StoredParts.passed(wrote)))
    return np.concatenate(found)
