"""What a store will take, before any of it is made: bytes, files, requests, GPU hours, dollars.

    facet plan --model ViT-L-14 --images 400000000 --shard-size 4096 --gpu H100

No weights are read and no image is touched. What is assumed is printed with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from jobs.console import run_job
from jobs.settings import flag, refuse_bounds
from pipeline.images.decoding import Decode
from storage.errors import FacetError
from storage.layout import COMPONENTS, Component


@dataclass(frozen=True)
class PlanConfig:
    """What a store will take: bytes, files, requests, GPU hours, dollars."""

    images: int
    """How many images."""
    model: tuple[str, ...] = ("ViT-L-14",)
    """OpenCLIP model names, model configs (JSON), or microworld: a column each."""
    components: tuple[Component, ...] = ("heads", "mlps")
    """What to keep."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the forward pass."""
    store_dtype: Literal["float16", "float32"] = "float16"
    """What heads, mlps and tokens are rounded to."""
    shard_size: int = 1024
    """Images in one shard."""
    batch_size: int = 256
    """Images in one forward pass."""
    gpu: Literal["T4", "L4", "A100", "H100", "H200"] = "A100"
    """Kind of GPU: its peak, from the data sheet, and its assumed price."""
    utilisation: float = 0.35
    """Assumed: the part of the peak that the forward pass achieves."""
    images_per_second: float | None = None
    """Of one GPU, where it was measured; used in place of peak and utilisation."""
    decode: Decode = "exact"
    """How pictures are to be read: how many a CPU core does in a second, as measured."""
    decodes_per_second: float | None = None
    """Images that one CPU core decodes in a second, where it was measured anew."""
    dollars_gpu_hour: float | None = None
    """Price of one GPU for an hour; by default the one assumed of this kind."""
    dollars_gb_month: float = 0.023
    """Assumed price of 10^9 bytes for a month."""
    dollars_thousand_puts: float = 0.005
    """Assumed price of a thousand PUT or LIST requests."""
    dollars_thousand_gets: float = 0.0004
    """Assumed price of a thousand GET or HEAD requests."""


def main(config: PlanConfig) -> dict[str, list[str]]:
    """Work it out and print it."""
    check(config)
    from jobs.recipes.plan import run

    return run(config)


def check(config: PlanConfig) -> None:
    """Refuse numbers that mean nothing."""
    refuse_bounds(config, images=1, shard_size=1, batch_size=1)
    if not 0 < config.utilisation <= 1:
        raise FacetError(f"--utilisation {config.utilisation:g}: is a fraction between 0 and 1")
    for name in ("images_per_second", "decodes_per_second"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise FacetError(f"{flag(name)} {value:g}: must be above 0")
    if not config.components:
        raise FacetError(f"--components: name at least one of {', '.join(COMPONENTS)}")


if __name__ == "__main__":
    run_job(main, tyro.cli(PlanConfig, description=__doc__))
