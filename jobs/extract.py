"""Take a model apart over a set of images and keep the parts in a store.

    facet extract --images photos/ --model ViT-B-32-quickgelu --pretrained openai \\
        --store out/

The same command again goes on where a stopped run ended: only shards that the ledger
lacks are done.
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, replace
from typing import Literal

import tyro
from humanize import naturalsize

from jobs.console import TELLER, progress_bar, run_job, show_next, show_table
from jobs.scaffold import actors, of_workers, save
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.cluster.room import refuse_memory
from pipeline.cluster.work import Workers
from pipeline.extraction import plan, run
from pipeline.extraction.store import StoreSpec, images_left, open_or_create
from pipeline.images.rows import ListingReport
from pipeline.models import Architecture, ModelSpec, check_supported, load_model
from pipeline.models.arithmetic import TF32
from pipeline.stats.reductions import forget_redone
from pipeline.texts.encoding import model_spec
from storage import urls
from storage.errors import FacetError
from storage.layout import CONTRIBUTIONS
from storage.metadata import Metadata
from storage.store import Store


@dataclass(frozen=True)
class ExtractConfig:
    """Take a model apart over a set of images and keep the parts in a store."""

    images: str
    """Folder, WebDataset tars or Parquet files (globs and {000..009} allowed, local or s3://,
    gs://), or microworld:n=2000,seed=7,split=test."""
    model: str
    """An OpenCLIP model name, a model config (JSON), or microworld."""
    pretrained: str
    """A pretrained tag, a weights file, or none for random weights."""
    store: str
    """Where the store is or will be: a local path or an object-store URL."""
    components: tuple[Literal["heads", "mlps", "tokens"], ...] = ("heads", "mlps")
    """What to keep."""
    layers: str = "last:4"
    """Layers that tokens are summed over: all, last:4, 20-23, 1,3."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass."""
    store_dtype: Literal["float16", "float32"] = "float16"
    """What heads, mlps and tokens are rounded to."""
    shard_size: int = 1024
    """Images in one shard."""
    batch_size: int | None = None
    """Images in one forward pass; by default 32 on CPUs, 256 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs the model."""
    num_actors: Literal["auto"] | int = "auto"
    """Copies of the model at work; auto: one a GPU, or one a CPU while memory lasts."""
    workers: Where = "ray"
    """Where work is done: on a Ray cluster that is joined or started, or here, in this process."""
    max_bad: float = 0.01
    """Fraction of the images that may be bad before the job stops."""
    limit: int | None = None
    """Use only the first images of the list."""
    seed: int = 0
    """Seed of random weights (--pretrained none)."""


def main(config: ExtractConfig) -> Store:
    """Check all that can be checked, list the images, extract what the ledger lacks, sum up."""
    started = time.monotonic()
    choose_place(config)
    url = urls.absolute(config.store)
    architecture = check(config, url)
    machines.connect()
    spec = spec_of(config)
    model = load_model(spec.model)
    store, report = open_or_create(url, spec, architecture, model, TELLER)
    forget_redone(store)
    workers, projection = run.choose(
        store.meta, model, config.device, actors(config), config.batch_size
    )
    show_plan(store, workers, projection)
    refuse_memory(
        projection.actor, "lower --shard-size or --batch-size, or keep fewer --components"
    )
    with progress_bar("images", images_left(store), "finished shards are kept") as move:
        progress = run.run(store, model, workers, max_bad=config.max_bad, report=move)
    save(url, "extract", config, {"tf32": TF32})
    show_summary(store, report, progress, time.monotonic() - started)
    return store


def spec_of(config: ExtractConfig) -> StoreSpec:
    """What decides the store."""
    return StoreSpec(
        images=config.images,
        model=ModelSpec(config.model, config.pretrained, config.seed),
        components=config.components,
        layers=config.layers,
        precision=config.precision,
        store_dtype=config.store_dtype,
        shard_size=config.shard_size,
        limit=config.limit,
    )


def as_begun(config: ExtractConfig, existing: Metadata) -> ExtractConfig:
    """The extraction that goes on with a store as it was begun, whatever it is asked to keep."""
    given = config.pretrained if config.pretrained not in ("", "none") else None
    begun = model_spec(urls.absolute(config.store), existing, given)
    return replace(
        config,
        model=config.model or begun.model,
        pretrained=begun.pretrained,
        seed=begun.seed,
        components=existing.components,  # type: ignore[arg-type]
        layers=",".join(map(str, existing.token_layers)) or config.layers,
        precision=existing.precision,  # type: ignore[arg-type]
        store_dtype=existing.store_dtype,  # type: ignore[arg-type]
        shard_size=existing.shard_size,
    )


def check(config: ExtractConfig, url: str) -> Architecture:
    """Refuse what cannot work before a model, an image or a worker is touched."""
    refuse_bounds(config, "max_bad", shard_size=1)
    machines.check_device(config.device)
    if not config.components:
        raise FacetError("--components: name at least one of heads, mlps, tokens")
    if "tokens" not in config.components:
        refuse_unused(config, ["layers"], "--components tokens")
    if config.pretrained != "none":
        refuse_unused(config, ["seed"], "--pretrained none")
    architecture = check_supported(spec_of(config).model)
    plan.parse_layers(config.layers, architecture.layers)
    urls.check_writable(url)
    return architecture


def show_plan(store: Store, workers: Workers, projection: plan.Projection) -> None:
    """Bytes and workers, before anything long starts."""
    meta = store.meta
    done = len(store.done_shards())
    show_table(
        f"{meta.architecture} ({meta.weights}) over {meta.source}",
        {
            "images": f"{meta.images:,} in {meta.shards:,} shards of {meta.shard_size:,}",
            "already done": f"{done:,} shards",
            "will write": f"{naturalsize(projection.store)} before compression, "
            f"{naturalsize(projection.per_image)} an image",
            "workers": of_workers(workers),
            "memory": f"{naturalsize(projection.actor)} an actor, and "
            f"{naturalsize(projection.decoded)} of decoded pictures",
            "store": store.url,
        },
    )


def show_summary(
    store: Store, report: ListingReport, progress: run.Progress, seconds: float
) -> None:
    """What was done, what was not, how exact it is, and what to type next."""
    files, size = map(sum, zip(*store.size().values(), strict=True))
    bad = progress.bad.total()
    facts: dict[str, object] = {
        "images": f"{store.meta.images - bad:,} ok, {bad:,} bad",
        **progress.bad.rows(),
        **report.facts(),
        "this run": f"{progress.images:,} images in {seconds:.0f} s",
    }
    for name, largest in sorted(progress.largest.items()):
        mean = progress.sums[name] / (store.meta.images - bad)
        facts[name] = f"mean {mean:.1e}, max {largest:.1e}"
    facts["store"] = f"{naturalsize(size)} in {files:,} files at {store.url}"
    show_table("done", facts)
    show_next(next_command(store.url))


def next_command(url: str) -> str:
    """The store opened without any code of ours."""
    opened = json.dumps(urls.join(url, CONTRIBUTIONS), ensure_ascii=False)
    return shlex.join(["python", "-c", f"import xarray; print(xarray.open_zarr({opened}))"])


if __name__ == "__main__":
    run_job(main, tyro.cli(ExtractConfig, description=__doc__))
