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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import pyarrow as pa
import tyro
from humanize import naturalsize

from jobs.console import console, progress_bar, run_job, show_next, show_table
from jobs.settings import refuse_unused
from pipeline.cluster import machines
from pipeline.extraction import plan, run
from pipeline.extraction.growth import KnownImages, append
from pipeline.extraction.unchanged import sample, settle
from pipeline.images.listing import list_images, ray_mapper
from pipeline.images.rows import ListingReport
from pipeline.models import (
    Architecture,
    ModelSpec,
    VisionModel,
    check_supported,
    load_model,
    model_maps,
)
from pipeline.provenance import revision, versions
from pipeline.stats.reductions import forget_redone
from storage import urls
from storage.errors import FacetError
from storage.images import ListDigest, write_images
from storage.layout import CONTRIBUTIONS, bytes_per_image
from storage.metadata import Metadata, require_same
from storage.results import config_digest, save_result
from storage.store import Store, create_store, find_metadata, open_store

MAPS = ("head_map", "mlp_map", "attention_bias", "bias")


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
    max_bad: float = 0.01
    """Fraction of the images that may be bad before the job stops."""
    limit: int | None = None
    """Use only the first images of the list."""
    seed: int = 0
    """Seed of random weights (--pretrained none)."""


def main(config: ExtractConfig) -> Store:
    """Check all that can be checked, list the images, extract what the ledger lacks, sum up."""
    started = time.monotonic()
    url = urls.absolute(config.store)
    architecture, token_layers = check(config, url)
    machines.connect()
    model = load_model(ModelSpec(config.model, config.pretrained, config.seed))
    describe = partial(describe_store, config, architecture, token_layers, model)
    store, report = open_or_create(config, url, model, describe)
    forget_redone(store)
    project = partial(
        plan.project,
        store.meta,
        image_side=max(model.preprocess.size),
        parameters=sum(p.numel() for p in model.module.parameters()),
    )
    workers = run.choose_workers(
        machines.resources(),
        config.device,
        None if config.num_actors == "auto" else config.num_actors,
        config.batch_size,
        shards=store.meta.shards,
        fit=lambda batch: machines.memory() // project(batch_size=batch).actor,
    )
    projection = project(batch_size=workers.batch_size)
    show_plan(store, workers, projection)
    check_memory(projection)
    with progress_bar("images", remaining(store), "finished shards are kept") as move:
        progress = run.run(
            store, model, workers, max_bad=config.max_bad, report=lambda p: move(p.images)
        )
    save_result(url, "extract", asdict(config), {"versions": versions(), "revision": revision()})
    show_summary(store, report, progress, time.monotonic() - started)
    return store


def check(config: ExtractConfig, url: str) -> tuple[Architecture, tuple[int, ...]]:
    """Refuse what cannot work before a model, an image or a worker is touched."""
    if config.shard_size < 1:
        raise FacetError(f"--shard-size {config.shard_size}: must be at least 1")
    if not 0 <= config.max_bad <= 1:
        raise FacetError(f"--max-bad {config.max_bad}: is a fraction between 0 and 1")
    machines.check_device(config.device)
    if not config.components:
        raise FacetError("--components: name at least one of heads, mlps, tokens")
    if "tokens" not in config.components:
        refuse_unused(config, ["layers"], "--components tokens")
    if config.pretrained != "none":
        refuse_unused(config, ["seed"], "--pretrained none")
    architecture = check_supported(ModelSpec(config.model, config.pretrained, config.seed))
    layers = plan.parse_layers(config.layers, architecture.layers)
    urls.check_writable(url)
    return architecture, layers if "tokens" in config.components else ()


def describe_store(
    config: ExtractConfig,
    architecture: Architecture,
    token_layers: tuple[int, ...],
    model: VisionModel,
    images: ListDigest,
) -> Metadata:
    """The identity of the store that this configuration asks for."""
    pretrained = config.pretrained
    return Metadata(
        architecture=config.model,
        architecture_digest=config_digest(architecture.config),
        weights=f"none:{config.seed}" if pretrained == "none" else pretrained.rsplit("/", 1)[-1],
        weights_digest=model.weights_digest,
        activation=architecture.activation,
        preprocessing=architecture.preprocess.identity(),
        precision=config.precision,
        store_dtype=config.store_dtype,
        components=tuple(sorted(set(config.components))),
        token_layers=token_layers,
        image_list_digest=images.hexdigest(),
        images=images.rows,
        shard_size=config.shard_size,
        layers=architecture.layers,
        heads=architecture.heads,
        head_dim=architecture.head_dim,
        width=architecture.width,
        mlp_width=architecture.mlp_width,
        embed=architecture.embed_dim,
        tokens=architecture.tokens,
        source=config.images,
        versions=versions(),
        revision=revision(),
    )


def open_or_create(
    config: ExtractConfig,
    url: str,
    model: VisionModel,
    describe: Callable[[ListDigest], Metadata],
) -> tuple[Store, ListingReport]:
    """The store of this configuration: the one that stands, if it is the same, or a new one."""
    existing = find_metadata(url)
    report, digest = ListingReport(), ListDigest()
    list_source = partial(list_images, config.images, limit=config.limit, mapper=ray_mapper)
    tables = digest.through(list_source(report=report))
    if existing is not None:
        return same_or_grown(url, existing, tables, lambda: describe(digest), list_source), report
    with console.status("listing images"):
        write_images(url, tables)
    meta = describe(digest)
    check_room(url, meta)
    maps = {name: getattr(model_maps(model), name) for name in MAPS}
    return create_store(url, meta, maps), report


def same_or_grown(
    url: str,
    existing: Metadata,
    tables: Iterable[pa.Table],
    describe: Callable[[], Metadata],
    list_source: Callable[[], Iterator[pa.Table]],
) -> Store:
    """The store that stands, with the images appended that its source has gained since."""
    known = KnownImages(url, existing.images, sample(url, existing.images, existing.shard_size))
    with console.status("listing images"):
        new = sum(table.num_rows for table in known.new(tables))
    meta = describe()
    listed = replace(existing, images=meta.images, image_list_digest=meta.image_list_digest)
    require_same(listed, meta, url)
    store = open_store(url, mode="r+")
    with console.status("reading images again"):
        notes = settle(
            url, existing.images, existing.shard_size, known, meta.source,
            place="--store", must_read=bool(new or remaining(store)), mapper=ray_mapper,
        )  # fmt: skip
    for note in notes:
        console.print(note)
    if not new:
        return store
    console.print(f"{new:,} new images: appended to the {existing.images:,} of the store")
    check_room(url, replace(existing, images=new))
    return append(store, KnownImages(url, existing.images).new(list_source()))


def check_room(url: str, meta: Metadata) -> None:
    """Refuse a store that the disk cannot hold (compression is not counted on)."""
    need = meta.images * bytes_per_image(meta)
    free = urls.free_bytes(url)
    if free is not None and need > free:
        raise FacetError(
            f"the store will need up to {naturalsize(need)} and {url} has {naturalsize(free)} "
            "free: choose another --store, fewer --components or --limit the images"
        )


def remaining(store: Store) -> int:
    """Images whose shard the ledger lacks."""
    missing = set(range(store.meta.shards)) - store.done_shards()
    return sum(stop - start for start, stop in map(store.meta.rows, missing))


def check_memory(projection: plan.Projection) -> None:
    """Refuse actors that no node of the cluster can hold."""
    memory = machines.node_memory()
    if projection.actor > memory:
        raise FacetError(
            f"an actor will need {naturalsize(projection.actor)} and the largest node has "
            f"{naturalsize(memory)}: lower --shard-size or --batch-size, or keep fewer --components"
        )


def show_plan(store: Store, workers: run.Workers, projection: plan.Projection) -> None:
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
            "workers": f"{workers.actors} × {workers.device}, {workers.threads} threads, "
            f"batches of {workers.batch_size}",
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
