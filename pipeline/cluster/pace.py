"""How long work would take one process of this machine, from its plan: good to a factor of a few.

It only decides whether Ray is worth starting: see ``machines.settle``.
"""

from __future__ import annotations

from pipeline.images.decoding import RATES
from storage.layout import bytes_per_image
from storage.metadata import Metadata

from . import machines

# Floating-point operations of one core and of one GPU in a second.
CORE, GPU = 2e10, 5e12
# Bytes of a store that are read, or written, and worked on in a second; what a shard takes besides.
BYTES, SECONDS_A_SHARD = 1e8, 0.1
# Files and folders of an image source that are listed in a second.
PIECES = 10.0


def of_images(images: int, flops: float, device: str = "auto") -> float:
    """Seconds to decode so many images and to run the model over them.

    Parameters
    ----------
    images : int
        As often as they pass through the model.
    flops : float
        Of one image's pass.
    device : str
        As ``choose_workers`` takes it.
    """
    cpus = machines.own_cpus()
    speed = GPU if device != "cpu" and machines.own_gpu() else CORE * cpus
    return images * (1 / RATES["exact"] + flops / speed)


def of_shards(meta: Metadata, shards: int) -> float:
    """Seconds to go once through so many shards of a store."""
    return shards * (SECONDS_A_SHARD + meta.shard_size * bytes_per_image(meta) / BYTES)


def of_pieces(pieces: int) -> float:
    """Seconds to list so many pieces of an image source."""
    return pieces / PIECES


def of_products(flops: float) -> float:
    """Seconds of products on all cores."""
    return flops / (CORE * machines.own_cpus())
