"""The recipe of ``facet plan``: what a store will take."""

from __future__ import annotations

from humanize import naturalsize
from rich.box import SIMPLE
from rich.table import Table

from jobs.console import console, show_table
from jobs.plan import PlanConfig
from pipeline.extraction.cost import GPUS, Assumptions, Scale, forward_flops, scale
from pipeline.extraction.spec import StoreSpec
from pipeline.images.decoding import RATES
from pipeline.models import ModelSpec, check_supported, count_parameters
from pipeline.models.names import parse


def run(config: PlanConfig) -> dict[str, list[str]]:
    """Work it out and print it."""
    found = rows(config)
    title = f"{config.images:,} images in shards of {config.shard_size:,}"
    table = Table("", *config.model, title=title, title_justify="left", box=SIMPLE)
    for name, cells in found.items():
        table.add_row(name, *cells)
    console.print(table)
    show_table("assumed", assumptions(config))
    return found


def rows(config: PlanConfig) -> dict[str, list[str]]:
    """The table: what is projected, a cell a model."""
    columns = [cells(project_model(config, model)) for model in config.model]
    return {name: [column[name] for column in columns] for name in columns[0]}


def project_model(config: PlanConfig, model: str) -> Scale:
    """The projection of one model."""
    name = parse(model)
    # What a tag decides is planned, too: how many classes a model has, for example.
    spec = ModelSpec(name.spelled, name.weights or name.usual or "none")
    architecture = check_supported(spec)
    # A store that does not exist: its axes are real, its digests are empty.
    meta = StoreSpec(
        images="",
        model=spec,
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
            decodes_per_second=decodes(config),
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


def decodes(config: PlanConfig) -> float:
    """Images that one core does in a second."""
    return config.decodes_per_second or RATES[config.decode]


def cells(of: Scale) -> dict[str, str]:
    """One column of the table."""
    return {
        "bytes an image": naturalsize(of.bytes_per_image),
        "store, before compression": naturalsize(of.store_bytes),
        "  of which heads": naturalsize(of.heads_bytes),
        "index, last 4 layers": naturalsize(of.index_bytes),
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
        "one core": f"{'reads' if config.decode == 'gpu' else 'decodes'} {decodes(config):g} "
        f"images/s, {config.decode} (--decode, --decodes-per-second)",
        "GPU hour": f"${gpu.dollars_an_hour if price is None else price:g} (--dollars-gpu-hour)",
        "GB month": f"${config.dollars_gb_month:g} (--dollars-gb-month)",
        "requests": f"${config.dollars_thousand_puts:g} a thousand PUT or LIST, "
        f"${config.dollars_thousand_gets:g} a thousand GET or HEAD",
    }
