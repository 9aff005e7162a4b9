"""What a data set of any size will cost, as arithmetic: no Ray, no torch, no zarr.

Everything that is not a consequence of the architecture and of the store's layout is an
assumption, and stands in ``Assumptions`` or ``GPUS``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.cluster.work import IN_HAND_GPU
from storage.layout import (
    ROWS_PER_IMAGE_PART,
    bytes_per_image,
    contribution_arrays,
    head_part,
    index_bytes,
    model_arrays,
)
from storage.metadata import Metadata

from .plan import project

# What writing one array of one shard asks of an object store: is it there, put it, read it back.
# A test holds these against a server.
PUTS, GETS = 1, 2
# Reading a batch's rows of the image table: its size, its bytes.
GETS_PER_BATCH = 2
# Listings of the ledger when a run starts; it ends with one of the whole store. Names in a page.
LISTINGS, PAGE = 3, 1000
# Layers whose heads are indexed unless others are asked for.
INDEXED_LAYERS = 4
COORDINATES = ("layer", "head", "block")


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes
    ----------
    half, single : float
        Peak TFLOP/s of dense matrix products in bfloat16 (of the T4, float16) and in float32,
        from the maker's data sheet.
    dollars_an_hour : float
        Assumed.
    """

    half: float
    single: float
    dollars_an_hour: float


GPUS = {
    "T4": Gpu(65, 8.1, 0.5),
    "L4": Gpu(121, 30.3, 0.8),
    "A100": Gpu(312, 19.5, 3.0),
    "H100": Gpu(989, 67, 5.0),
    "H200": Gpu(989, 67, 6.0),
}


@dataclass(frozen=True)
class Assumptions:
    """What the arithmetic cannot know.

    Attributes
    ----------
    tflops : float
        TFLOP/s that one GPU achieves on the forward pass.
    decodes_per_second : float
        Images that one CPU core reads, decodes and resizes in a second.
    gpu_hour, gb_month, thousand_puts, thousand_gets : float
        Dollars: a GPU for an hour, 10⁹ bytes for a month, a thousand PUT or LIST requests, a
        thousand GET or HEAD requests.
    """

    tflops: float
    decodes_per_second: float
    gpu_hour: float
    gb_month: float
    thousand_puts: float
    thousand_gets: float


@dataclass(frozen=True)
class Scale:
    """What one store takes.

    Attributes
    ----------
    bytes_per_image, store_bytes, shard_bytes : int
        Of ``contributions.zarr``, before compression.
    heads_bytes : int
        Of ``heads`` alone, all images; 0 without them.
    index_bytes : int
        Of the index of all heads of the last layers; 0 without them.
    objects : dict of str to int
        Files under each part of the store. Shards that hold nothing but fill values (labels
        where there are none) are never written, so these are upper bounds.
    puts, lists, gets : int
        Requests to an object store: PUT, LIST, and GET or HEAD. The source of the images is
        not counted.
    gigaflops : float
        Of one image's forward pass.
    images_per_second : float
        Of one GPU.
    decoding_cores : float
        CPU cores that keep one GPU busy.
    gpu_hours : float
    actor_bytes : int
        Peak memory of one extraction actor.
    gpu_dollars, month_dollars, request_dollars : float
    """

    bytes_per_image: int
    store_bytes: int
    shard_bytes: int
    heads_bytes: int
    index_bytes: int
    objects: dict[str, int]
    puts: int
    lists: int
    gets: int
    gigaflops: float
    images_per_second: float
    decoding_cores: float
    gpu_hours: float
    actor_bytes: int
    gpu_dollars: float
    month_dollars: float
    request_dollars: float


def forward_flops(meta: Metadata, patch_values: int) -> int:
    """Floating-point operations of one image's forward pass: its matrix products, 2 a product.

    Of an attention pool, the blocks before it, as wide as what it writes and over the tokens that
    it looks at, and its one query.

    Parameters
    ----------
    meta : Metadata
    patch_values : int
        Numbers in one patch: 3 · height · width.
    """
    t, d = meta.tokens, meta.width
    attention = 4 * t * d * d + 2 * t * t * d
    if meta.trunk_layers:
        pool = (2 + 2 * t) * d * d + 2 * t * d + 2 * d * meta.mlp_width
        blocks = meta.trunk_layers * (attention + 2 * t * d * meta.trunk_mlp_width) + pool
    else:
        blocks = meta.layers * (attention + 2 * t * d * meta.mlp_width)
    embedding = math.prod(meta.grid) * patch_values * d
    return 2 * (embedding + blocks + d * meta.embed)


def count_objects(meta: Metadata) -> dict[str, int]:
    """Files of a finished store, by its parts; see ``Scale.objects``."""
    arrays, model = contribution_arrays(meta), model_arrays(meta)

    def coordinates(specs: list) -> int:
        return len({d for s in specs for d in s.dims if d in COORDINATES})

    # A group, then a description for each array; a small array is one chunk.
    return {
        "contributions.zarr": 1 + len(arrays) * (1 + meta.shards) + 2 * coordinates(arrays),
        "model.zarr": 1 + 2 * (len(model) + coordinates(model)),
        "images": -(-meta.images // ROWS_PER_IMAGE_PART),
        "ledger": meta.shards,
    }


def count_requests(meta: Metadata, batch_size: int) -> tuple[int, int, int]:
    """PUT, LIST, and GET or HEAD requests of one run that extracts every shard.

    Creating the store adds a few dozen, whatever its size.
    """
    written = meta.shards * len(contribution_arrays(meta))
    batches = meta.shards * -(-min(meta.shard_size, meta.images) // batch_size)
    image_parts = -(-meta.images // ROWS_PER_IMAGE_PART)
    puts = PUTS * written + meta.shards + image_parts
    files = sum(count_objects(meta).values())
    lists = LISTINGS * -(-meta.shards // PAGE) + -(-files // PAGE)
    return puts, lists, GETS * written + GETS_PER_BATCH * batches


def scale(
    meta: Metadata,
    assumed: Assumptions,
    *,
    patch_values: int,
    image_side: int,
    parameters: int,
    batch_size: int,
) -> Scale:
    """Project one store.

    Parameters
    ----------
    meta : Metadata
    assumed : Assumptions
    patch_values : int
        Numbers in one patch.
    image_side : int
        Side of the model's input in pixels.
    parameters : int
        Of both towers.
    batch_size : int
        Images in one forward pass.
    """
    needs = project(
        meta,
        batch_size=batch_size,
        image_side=image_side,
        parameters=parameters,
        in_hand=IN_HAND_GPU,
    )
    flops = forward_flops(meta, patch_values)
    rate = assumed.tflops * 1e12 / flops
    hours = meta.images / rate / 3600
    puts, lists, gets = count_requests(meta, batch_size)
    heads = [s.bytes_per_row for s in contribution_arrays(meta) if s.name == "heads"]
    layers = range(max(0, meta.layers - INDEXED_LAYERS), meta.layers)
    indexed = [head_part(layer, head) for layer in layers for head in range(meta.heads)]
    return Scale(
        bytes_per_image=bytes_per_image(meta),
        store_bytes=needs.store,
        shard_bytes=min(meta.shard_size, meta.images) * needs.per_image,
        heads_bytes=meta.images * sum(heads),
        index_bytes=index_bytes(meta, indexed) if heads else 0,
        objects=count_objects(meta),
        puts=puts,
        lists=lists,
        gets=gets,
        gigaflops=flops / 1e9,
        images_per_second=rate,
        decoding_cores=rate / assumed.decodes_per_second,
        gpu_hours=hours,
        actor_bytes=needs.actor,
        gpu_dollars=hours * assumed.gpu_hour,
        month_dollars=needs.store / 1e9 * assumed.gb_month,
        request_dollars=((puts + lists) * assumed.thousand_puts + gets * assumed.thousand_gets)
        / 1000,
    )
