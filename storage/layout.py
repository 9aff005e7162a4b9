"""Where everything stands in a store, and the shape, dtype and chunks of every array.

Pure arithmetic: no zarr, no file is touched here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from .tail import terms

if TYPE_CHECKING:
    from .metadata import Metadata

CONTRIBUTIONS = "contributions.zarr"
MODEL = "model.zarr"
IMAGES = "images"
LEDGER = "ledger"
REDUCTIONS = "reductions.zarr"
INDEX = "index.zarr"
APPROXIMATE = "approximate"
RESULTS = "results"
# Of units that models share: what all sums of a place have in common.
SETUP = "rosetta.json"

ROWS_PER_IMAGE_PART = 65_536
CHUNK_BYTES = 2**20
# Of the index: large, as a search reads a part from end to end, and whole shards.
ROWS_PER_INDEX_CHUNK = 16_384
# The last three are of what a few models have: registers, and attention pools.
Component = Literal["heads", "mlps", "tokens", "sources", "pool_neurons", "channels"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
# Tokens that `sources` tells apart; patches have the rest.
SOURCES = ("class", "registers")


@dataclass(frozen=True)
class ArraySpec:
    """One array: its name, named axes, shape, dtype, and how it is cut.

    ``shards`` is None for arrays that are small and written once.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one index of the first axis, before compression (strings counted as 16)."""
        size = 16 if self.dtype == "str" else np.dtype(self.dtype).itemsize
        return math.prod(self.shape[1:]) * size


NEURON_MAP, CHANNEL_MAP = "pool_neuron_map", "channel_map"


def images_per_chunk(shard_size: int, bytes_per_image: int) -> int:
    """Largest divisor of the shard size whose chunk stays within ``CHUNK_BYTES`` (at least 1)."""
    return largest_divisor(shard_size, CHUNK_BYTES // bytes_per_image)


def largest_divisor(size: int, most: int) -> int:
    """Largest divisor of a size that is no larger than ``most`` (at least 1)."""
    return max(d for d in range(1, size + 1) if size % d == 0 and d <= max(1, most))


def contribution_arrays(meta: Metadata) -> list[ArraySpec]:
    """The arrays of ``contributions.zarr`` that have an image axis, one shard a shard of images."""
    part = meta.store_dtype
    rows: list[tuple[str, tuple[str, ...], tuple[int, ...], tuple[int, ...], str]] = [
        # name, further axes, their sizes, their chunks, dtype
        ("embedding", ("embed",), (meta.embed,), (meta.embed,), "float32"),
        ("ln_std", (), (), (), "float32"),
        ("residual", (), (), (), "float32"),
        ("rounding", (), (), (), "float32"),
        ("key", (), (), (), "str"),
        ("label", (), (), (), "str"),
    ]
    if "heads" in meta.components:
        sizes: tuple[int, ...] = (meta.layers, meta.heads, meta.head_dim)
        rows.append(("heads", ("layer", "head", "head_dim"), sizes, (1, *sizes[1:]), part))
    if meta.varying_bias:
        rows.append(("bias_weights", ("layer",), (meta.layers,), (meta.layers,), "float32"))
    if "mlps" in meta.components:
        sizes = (meta.layers + 1, meta.width)
        rows.append(("mlps", ("block", "width"), sizes, (1, meta.width), part))
    if "tokens" in meta.components:
        sizes = (meta.tokens, meta.embed)
        rows.append(("tokens", ("token", "embed"), sizes, sizes, part))
    if "sources" in meta.components:
        sizes = (meta.layers, len(SOURCES), meta.heads, meta.head_dim)
        axes = ("layer", "source", "head", "head_dim")
        rows.append(("sources", axes, sizes, (1, *sizes[1:]), part))
    if "pool_neurons" in meta.components:
        sizes = (meta.mlp_width,)
        rows.append(("pool_neurons", ("neuron",), sizes, sizes, part))
    if "channels" in meta.components:
        sizes = (meta.heads, channels(meta))
        rows.append(("channels", ("head", "channel"), sizes, sizes, part))
    specs = []
    for name, dims, sizes, chunk, dtype in rows:
        itemsize = 16 if dtype == "str" else np.dtype(dtype).itemsize
        per_chunk = images_per_chunk(meta.shard_size, math.prod(chunk) * itemsize)
        specs.append(
            ArraySpec(
                name,
                ("image", *dims),
                (meta.images, *sizes),
                dtype,
                (per_chunk, *chunk),
                (meta.shard_size, *sizes),
            )
        )
    return specs


def model_arrays(meta: Metadata) -> list[ArraySpec]:
    """The arrays of ``model.zarr``: what the weights alone determine, float32."""
    sizes = {
        "layer": meta.layers, "head": meta.heads, "head_dim": meta.head_dim, "width": meta.width,
    }  # fmt: skip
    specs = []
    for term in terms(meta.heads, meta.varying_bias):
        shape = (*(sizes[axis] for axis in term.axes), meta.embed)
        specs.append(ArraySpec(term.map, (*term.axes, "embed"), shape, "float32", shape))
    if "pool_neurons" in meta.components:
        shape = (meta.mlp_width, meta.embed)
        specs.append(ArraySpec(NEURON_MAP, ("neuron", "embed"), shape, "float32", shape))
    if "channels" in meta.components:
        shape = (meta.heads, channels(meta), meta.head_dim)
        dims = ("head", "channel", "head_dim")
        specs.append(ArraySpec(CHANNEL_MAP, dims, shape, "float32", shape))
    return specs


def channels(meta: Metadata) -> int:
    """Of what the pool of a convolutional network looks at: as many as its values are wide."""
    return meta.heads * meta.head_dim


def bytes_per_image(meta: Metadata) -> int:
    """Bytes that one image takes in ``contributions.zarr``, before compression."""
    return sum(spec.bytes_per_row for spec in contribution_arrays(meta))


# Parts of the index: `heads/22.1`, `blocks/3`, `embedding`.
HEADS, BLOCKS, EMBEDDING = "heads", "blocks", "embedding"


def head_part(layer: int, head: int) -> str:
    """Name of a head's part of the index."""
    return f"{HEADS}/{layer}.{head}"


def block_part(block: int) -> str:
    """Name of a block's part of the index."""
    return f"{BLOCKS}/{block}"


def part_numbers(part: str) -> tuple[int, ...]:
    """Layer and head of a head's part, the block of a block's; of the embedding nothing."""
    return tuple(int(number) for number in part.partition("/")[2].split(".") if number)


def shards_per_run(meta: Metadata) -> int:
    """Shards that are read of the index at once; their rows are one chunk of it in large stores."""
    return max(1, ROWS_PER_INDEX_CHUNK // meta.shard_size)


def index_array(meta: Metadata, part: str) -> ArraySpec:
    """The array of one part of ``index.zarr``, as it is made."""
    inner = {HEADS: meta.head_dim, BLOCKS: meta.width, EMBEDDING: meta.embed}
    width = min(inner[part.partition("/")[0]], meta.embed)
    # A chunk is as long on disk as it can become: none is longer than the store.
    rows = min(shards_per_run(meta), meta.shards) * meta.shard_size
    return ArraySpec(part, ("image", "coordinate"), (meta.images, width), "float16", (rows, width))


def index_bytes(meta: Metadata, parts: Iterable[str]) -> int:
    """Bytes of parts of the index, in whole chunks."""
    specs = [index_array(meta, part) for part in parts]
    return sum(
        math.ceil(meta.images / spec.chunks[0]) * spec.chunks[0] * spec.bytes_per_row
        for spec in specs
    )
