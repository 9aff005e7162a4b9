"""What a run will write and need, as arithmetic: no Ray, no torch, no zarr."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.cluster.work import IN_HAND, LIBRARIES
from storage.errors import FacetError
from storage.layout import bytes_per_image
from storage.metadata import Metadata


@dataclass(frozen=True)
class Projection:
    """What a run will write and hold; bytes throughout.

    Attributes
    ----------
    store : int
        ``contributions.zarr`` when finished, before compression.
    per_image : int
        The same for one image.
    actor : int
        Peak private memory of one extraction actor: libraries, weights, activations of a batch,
        the arrays of the shards in flight.
    decoded : int
        Decoded pictures waiting for one actor in Ray's object store.
    """

    store: int
    per_image: int
    actor: int
    decoded: int


def project(
    meta: Metadata,
    *,
    batch_size: int,
    image_side: int,
    parameters: int,
    in_hand: int = IN_HAND,
) -> Projection:
    """Project the bytes of an extraction.

    Parameters
    ----------
    meta : Metadata
    batch_size : int
        Images in one forward pass.
    image_side : int
        Side of the model's input in pixels.
    parameters : int
        Number of the model's parameters (both towers are loaded).
    in_hand : int
        Shards that an actor has in hand.
    """
    per_image = bytes_per_image(meta)
    itemsize = 4 if meta.precision == "fp32" else 2
    # A block holds its input, the normalised input, queries, keys, values, the attention
    # output and the four-fold hidden layer before and after its activation.
    activations = batch_size * meta.tokens * meta.width * 16 * itemsize
    # The maps in float32: head_map dominates.
    maps = 4 * meta.embed * (meta.layers * meta.heads * meta.head_dim + meta.width)
    shard = min(meta.shard_size, meta.images)
    # Written arrays exist as computed (float32), as stored, encoded, and read back.
    arrays = in_hand * shard * per_image * (5 if meta.store_dtype == "float16" else 4)
    return Projection(
        store=meta.images * per_image,
        per_image=per_image,
        actor=LIBRARIES + parameters * (4 + itemsize) + activations + maps + arrays,
        decoded=in_hand * shard * image_side * image_side * 3,
    )


def parse_layers(text: str, layers: int, what: str = "layers") -> tuple[int, ...]:
    """Layers that a text names: ``all``, ``last:4``, ``20-23``, ``1,3`` or a mixture.

    ``what`` is what they are, and the setting that names them: ``blocks`` are counted alike.

    Raises
    ------
    FacetError
        If a layer does not exist or the text cannot be read.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        if part == "all":
            chosen |= set(range(layers))
        elif match := re.fullmatch(r"last:(\d+)", part):
            if not (count := int(match[1])):
                raise FacetError(f"`{what}` {part}: the model has {layers} {what}")
            chosen |= set(range(max(0, layers - count), layers))
        elif match := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last >= layers:
                raise FacetError(f"`{what}` {part}: the model's {what} are 0-{layers - 1}")
            chosen |= set(range(first, last + 1))
        else:
            raise FacetError(f"`{what}` {part!r}: write all, last:4, 20-23 or 1,3")
    return tuple(sorted(chosen))
