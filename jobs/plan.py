"""What a store will take, before any of it is made: bytes, files, requests, GPU hours, dollars.

    facet plan --model ViT-L-14 --images 400000000 --shard-size 4096 --gpu H100

No weights are read and no image is touched. What is assumed is printed with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro
from humanize import naturalsize
from rich.box import SIMPLE
from rich.table import Table

from jobs.console import console, run_job, show_table
from jobs.settings import flag, refuse_bounds
from pipeline.extraction.cost import GPUS, Assumptions, Scale, forward_flops, scale
from pipeline.extraction.store import StoreSpec
from pipeline.models import ModelSpec, check_supported, count_parameters
from storage.errors import FacetError


@dataclass(frozen=True)
class PlanConfig:
    """What a store will take: bytes, files, requests, GPU hours, dollars."""

    images: int
    """How many images."""
    model: tuple[str, ...] = ("ViT-L-14",)
    """OpenCLIP model names, model configs (JSON), or microworld: a column each."""
    components: tuple[Literal["heads", "mlps", "tokens"], ...] = ("heads", "mlps")
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
    decodes_per_second: float = 150.0
    """Assumed: images that one CPU core decodes in a second."""
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
    found = rows(config)
    title = f"{config.images:,} images in shards of {config.shard_size:,}"
    table = Table("", *config.model, title=title, title_justify="left", box=SIMPLE)
    for name, cells in found.items():
        table.add_row(name, *cells)
    console.print(table)
    show_table("assumed", assumptions(config))
    return found


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
        raise FacetError("--components: name at least one of heads, mlps, tokens")


def rows(config: PlanConfig) -> dict[str, list[str]]:
    """The table: what is projected, a cell a model."""
    columns = [cells(project_model(config, model)) for model in config.model]
    return {name: [column[name] for column in columns] for name in columns[0]}


def project_model(config: PlanConfig, model: str) -> Scale:
    """The projection of one model."""
    architecture = check_supported(ModelSpec(model, "none"))
    # A store that does not exist: its axes are real, its digests are empty.
    meta = StoreSpec(
        images="",
        model=ModelSpec(model, "none"),
        components=config.components,
        layers="all",
        precision=config.precision,
        store_dtype=config.store_dtype,
        shard_size=config.shard_size,
    ).metadata(architecture, images=config.images)
    # Of an input that its patches fill; what they leave of another is less than a patch.
    sides = zip(architecture.preprocess.size, architecture.grid, strict=True)
    height, width = (pixels // patches for pixels, patches in sides)
    gpu = GPUS[config.gpu]
    tflops = (gpu.single if config.precision == "fp32" else gpu.half) * config.utilisation
    if config.images_per_second is not None:
        tflops = config.images_per_second * forward_flops(meta, 3 * height * width) / 1e12
    price = config.dollars_gpu_hour
    return scale(
        meta,
        Assumptions(
            tflops=tflops,
            decodes_per_second=config.decodes_per_second,
            gpu_hour=gpu.dollars_an_hour if price is None else price,
            gb_month=config.dollars_gb_month,
            thousand_puts=config.dollars_thousand_puts,
            thousand_gets=config.dollars_thousand_gets,
        ),
        patch_values=3 * height * width,
        image_side=max(architecture.preprocess.size),
        parameters=count_parameters(architecture),
        batch_size=config.batch_size,
    )


def cells(of: Scale) -> dict[str, str]:
    """One column of the table."""
    return {
        "bytes an image": naturalsize(of.bytes_per_image),
        "store, before compression": naturalsize(of.store_bytes),
        "  of which heads": naturalsize(of.heads_bytes),
        "shards": f"{of.objects['ledger']:,}",
        "bytes a shard": naturalsize(of.shard_bytes),
        "files": f"{sum(of.objects.values()):,}",
        **{f"  in {name}": f"{n:,}" for name, n in of.objects.items()},
        "PUT requests": f"{of.puts:,}",
        "LIST requests": f"{of.lists:,}",
        "GET and HEAD requests": f"{of.gets:,}",
        "GFLOP an image": f"{of.gigaflops:.1f}",
        "images/s of one GPU": f"{of.images_per_second:,.0f}",
        "cores that decode for it": f"{of.decoding_cores:.1f}",
        "GPU hours": f"{of.gpu_hours:,.2f}",
        "memory of an actor": naturalsize(of.actor_bytes),
        "GPUs, dollars": f"{of.gpu_dollars:,.2f}",
        "requests, dollars": f"{of.request_dollars:,.2f}",
        "store, dollars a month": f"{of.month_dollars:,.2f}",
    }


def assumptions(config: PlanConfig) -> dict[str, object]:
    """What was assumed, and how to say otherwise."""
    gpu = GPUS[config.gpu]
    peak = gpu.single if config.precision == "fp32" else gpu.half
    rate = (
        f"{config.utilisation:.0%} of a peak of {peak:g} TFLOP/s (--utilisation, --gpu), "
        f"{config.precision}"
        if config.images_per_second is None
        else f"{config.images_per_second:g} images/s (--images-per-second)"
    )
    price = config.dollars_gpu_hour
    return {
        f"one {config.gpu}": rate,
        "one core": f"decodes {config.decodes_per_second:g} images/s (--decodes-per-second)",
        "GPU hour": f"${gpu.dollars_an_hour if price is None else price:g} (--dollars-gpu-hour)",
        "GB month": f"${config.dollars_gb_month:g} (--dollars-gb-month)",
        "requests": f"${config.dollars_thousand_puts:g} a thousand PUT or LIST, "
        f"${config.dollars_thousand_gets:g} a thousand GET or HEAD",
    }


if __name__ == "__main__":
    run_job(main, tyro.cli(PlanConfig, description=__doc__))
