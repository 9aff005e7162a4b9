"""Second-order effects of neurons over a set of images: norms, top images, directions.

    facet second-order --store out/ --mlp-layers 8-10

A store that does not exist is made first, with --images, --model and --pretrained. The same
command again goes on where a stopped run ended: coefficients are kept shard by shard; of what is
gathered over images, a kill costs a minute's work and the shards under way.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import tyro
import xarray as xr
from humanize import naturalsize

from jobs import extract
from jobs.console import console, progress_bar, run_job, say_found, show_next, show_table
from jobs.settings import refuse_unused
from pipeline.cluster import machines
from pipeline.extraction.run import TooManyBadImages, choose_workers
from pipeline.identity import found_before, over, settings
from pipeline.images.bad import BadImages
from pipeline.models import ModelSpec, VisionModel, check_supported
from pipeline.models.spec import WEIGHT_SUFFIXES
from pipeline.neurons import plan as neuron_plan
from pipeline.neurons.phases import (
    Effects,
    Keep,
    find_effects,
    from_images,
    kept_quantities,
    lacking,
)
from pipeline.neurons.results import JOB, parse_mlp_layers
from pipeline.provenance import revision, versions
from pipeline.texts.encoding import store_model
from storage import ledger, neurons, open_store, urls
from storage.errors import FacetError, StoreError, command
from storage.metadata import Metadata, require_same
from storage.results import Result, config_digest, save_result
from storage.store import Store, find_metadata


@dataclass(frozen=True)
class SecondOrderConfig:
    """Second-order effects of neurons over a set of images: norms, top images, directions."""

    store: str
    """The store: a local path or an object-store URL. Made first if there is none."""
    images: str | None = None
    """To make a store, or go on with one: where the images are, as in facet extract."""
    model: str | None = None
    """To make a store: the model, as in facet extract."""
    pretrained: str | None = None
    """To make a store: its weights, as in facet extract; for one that was made from a weights
    file, that file."""
    mlp_layers: str = "last:3"
    """MLP layers whose neurons are meant, of all but the last: all, last:3, 8-10, 1,3."""
    keep: Keep = "coefficients"
    """What the store keeps of every image: coefficients of each path, peaks and norms; norms
    alone; or nothing but moments over all images."""
    top_k: int = 100
    """Images of longest effect that a neuron's direction is taken from."""
    store_dtype: Literal["float16", "float32"] | None = None
    """What is kept is rounded to it; by default as the store's other arrays."""
    batch_size: int | None = None
    """Images in one forward pass; by default 32 on CPUs, 256 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs the model."""
    num_actors: Literal["auto"] | int = "auto"
    """Copies of the model at work; auto: one a GPU, or one a CPU while memory lasts."""
    max_bad: float = 0.01
    """Fraction of the images that may be bad."""


@dataclass(frozen=True, eq=False)
class SecondOrderRun:
    """What was found.

    Attributes
    ----------
    store : Store
    result : Result
    neurons, top_images : DataFrame
        As ``storage/SCHEMA.md`` has them.
    directions : Dataset
        ``direction`` (layer, neuron, embed).
    """

    store: Store
    result: Result
    neurons: pd.DataFrame
    top_images: pd.DataFrame
    directions: xr.Dataset


def main(config: SecondOrderConfig) -> SecondOrderRun:
    """Check, make the store if there is none, go through the phases, sum up."""
    started = time.monotonic()
    url = urls.absolute(config.store)
    layers = check(config, url)
    store = open_or_extract(config, url)
    bad = check_images(config, store)
    dtype = dtype_of(config, store, layers)
    identity = {
        "settings": settings(config) | {"mlp_layers": list(layers), "store_dtype": dtype},
        "over": over(store),
    }
    result = found_before(store.url, JOB, identity)
    if result is not None and not missing(config, store, layers):
        say_found(result.url)
    else:
        machines.connect()
        model = load(config, store)
        run, projection = plan(config, store, model, layers)
        show_plan(config, run, projection)
        check_room(run, projection)
        check_memory(projection)
        tables, directions, images = find_effects(run)
        provenance = {
            "mlp_layers": list(layers),
            "images": images,
            "over": identity["over"],
            "versions": versions(),
            "revision": revision(),
        }
        result = save_result(
            store.url,
            JOB,
            asdict(config),
            provenance,
            identity=identity,
            tables={n: pa.Table.from_pandas(t, preserve_index=False) for n, t in tables.items()},
            arrays={"components": directions},
        )
        for layer in layers:
            neurons.drop_state(store.url, layer, "top")
    return summary(config, store, result, bad, time.monotonic() - started)


# -- before anything starts ----------------------------------------------------------------


def check(config: SecondOrderConfig, url: str) -> tuple[int, ...]:
    """Refuse what cannot work before a model or an image is touched; returns the MLP layers."""
    if config.top_k < 1:
        raise FacetError(f"--top-k {config.top_k}: must be at least 1")
    if not 0 <= config.max_bad <= 1:
        raise FacetError(f"--max-bad {config.max_bad}: is a fraction between 0 and 1")
    machines.check_device(config.device)
    existing = find_metadata(url)
    if existing is not None and config.keep == "moments":
        refuse_unused(config, ["store_dtype"], "--keep coefficients and norms")
    if existing is None:
        wanted = {n: getattr(config, n) for n in ("images", "model", "pretrained")}
        if absent := [f"--{name}" for name, value in wanted.items() if value is None]:
            raise FacetError(
                f"there is no store at {url}: give the one that is meant by --store, or, to make "
                f"it, --images, --model and --pretrained ({', '.join(absent)} not given)"
            )
        asked = extract_config(config, None)
        architecture = extract.check(asked, url)
        return parse_mlp_layers(config.mlp_layers, architecture.layers)
    layers = parse_mlp_layers(config.mlp_layers, existing.layers)
    refuse_other_model(config, existing, url)
    urls.check_writable(url)
    return layers


def refuse_other_model(config: SecondOrderConfig, existing: Metadata, url: str) -> None:
    """Refuse a store of another model than the one asked for, before anything is loaded."""
    asked = existing
    if config.model is not None:
        found = check_supported(ModelSpec(config.model, config.pretrained or "none"))
        asked = replace(
            asked, architecture=config.model, architecture_digest=config_digest(found.config)
        )
    if (tag := config.pretrained) is not None and not tag.endswith(WEIGHT_SUFFIXES):
        same = tag == "none" and existing.weights.startswith("none:")
        asked = replace(asked, weights=existing.weights if same else tag)
    require_same(existing, asked, url)


def extract_config(config: SecondOrderConfig, existing: Metadata | None) -> extract.ExtractConfig:
    """The extraction that makes the store, or goes on with it as it was begun."""
    asked = extract.ExtractConfig(
        images=config.images or "",
        model=config.model or "",
        pretrained=config.pretrained or "",
        store=config.store,
        batch_size=config.batch_size,
        device=config.device,
        num_actors=config.num_actors,
        max_bad=config.max_bad,
    )
    if existing is None:
        return replace(asked, store_dtype=config.store_dtype or asked.store_dtype)
    kind, _, seed = existing.weights.partition(":")
    return replace(
        asked,
        model=config.model or existing.architecture,
        pretrained=config.pretrained or kind,
        seed=int(seed) if kind == "none" else 0,
        components=existing.components,  # type: ignore[arg-type]
        layers=",".join(map(str, existing.token_layers)) or asked.layers,
        precision=existing.precision,  # type: ignore[arg-type]
        store_dtype=existing.store_dtype,  # type: ignore[arg-type]
        shard_size=existing.shard_size,
    )


def open_or_extract(config: SecondOrderConfig, url: str) -> Store:
    """The store; made or, where --images is given, brought to its end first."""
    if config.images is None:
        return open_store(url, mode="r+")
    return extract.main(extract_config(config, find_metadata(url)))


def check_images(config: SecondOrderConfig, store: Store) -> BadImages:
    """Refuse too few images and too many bad ones; returns the bad ones."""
    shards = store.done_shards()
    if not shards:
        first = command("extract", store=store.url)
        raise StoreError(f"no shard of {store.url} is finished: run `{first} …` first")
    bad = BadImages()
    for facts in ledger.read_facts(store.url, shards):
        bad.add(facts)
    images = sum(stop - start for start, stop in map(store.meta.rows, shards))
    if bad.total() > config.max_bad * store.meta.images:
        raise TooManyBadImages(
            f"{bad.total()} of {store.meta.images} images are bad, more than --max-bad "
            f"{config.max_bad:g} allows:\n{bad.lines()}\nThe ledger of {store.url} names every one."
        )
    if images - bad.total() < config.top_k:
        raise FacetError(
            f"--top-k {config.top_k}: only {images - bad.total()} images are ok in the finished "
            f"shards of {store.url}; use more images or a smaller --top-k"
        )
    return bad


def load(config: SecondOrderConfig, store: Store) -> VisionModel:
    """The store's own model, on the CPU, from where it goes to the actors."""
    pretrained = None if config.pretrained == "none" else config.pretrained
    model = store_model(store, pretrained)
    return replace(model, module=model.module.cpu(), device=torch.device("cpu"))


def dtype_of(config: SecondOrderConfig, store: Store, layers: tuple[int, ...]) -> str:
    """What is kept is rounded to it: as asked, as what is kept already, or as the store."""
    kept = {dtype for at in layers for dtype in neurons.kept(store.url, at).values()}
    return config.store_dtype or (max(kept) if kept else store.meta.store_dtype)


def plan(
    config: SecondOrderConfig, store: Store, model: VisionModel, layers: tuple[int, ...]
) -> tuple[Effects, neuron_plan.NeuronProjection]:
    """Settings that follow from the store and the cluster, and the bytes they need."""
    dtype = dtype_of(config, store, layers)
    covariance = neuron_plan.covariance_bytes(store.meta, layers) <= neuron_plan.COVARIANCE_BYTES
    quantities = kept_quantities(config.keep)
    absent = {
        (name, at): sum(
            stop - start for start, stop in map(store.meta.rows, lacking(store, [at], name)[at])
        )
        for name in quantities
        for at in layers
    }

    def project(batch_size: int) -> neuron_plan.NeuronProjection:
        return neuron_plan.project(
            store.meta,
            layers,
            dict.fromkeys(quantities, dtype),
            absent=absent,
            k=config.top_k,
            covariance=covariance,
            batch_size=batch_size,
            parameters=sum(p.numel() for p in model.module.parameters()),
        )

    workers = choose_workers(
        machines.resources(),
        config.device,
        None if config.num_actors == "auto" else config.num_actors,
        config.batch_size,
        shards=store.meta.shards,
        fit=lambda batch: machines.memory() // project(batch).worker,
    )
    projection = project(workers.batch_size)
    run = Effects(
        store,
        model,
        workers,
        projection.worker,
        layers,
        config.keep,
        config.top_k,
        dtype,
        covariance,
        partial(progress_bar, kept="finished shards, and sums of a minute ago, are kept"),
        console.print,
    )
    return run, projection


def missing(config: SecondOrderConfig, store: Store, layers: tuple[int, ...]) -> bool:
    """Whether rows that are to be kept are not there."""
    return any(
        shards
        for name in kept_quantities(config.keep)
        for shards in lacking(store, layers, name).values()
    )


def check_room(run: Effects, projection: neuron_plan.NeuronProjection) -> None:
    """Refuse what the disk cannot hold (compression is not counted on)."""
    need, free = projection.store + projection.states, urls.free_bytes(run.store.url)
    if free is not None and need > free:
        raise FacetError(
            f"the store will need up to {naturalsize(need)} more and {run.store.url} has "
            f"{naturalsize(free)} free: choose fewer --mlp-layers, or --keep norms or moments"
        )


def check_memory(projection: neuron_plan.NeuronProjection) -> None:
    """Refuse actors that no node of the cluster can hold."""
    memory = machines.node_memory()
    if projection.worker > memory:
        raise FacetError(
            f"an actor will need {naturalsize(projection.worker)} and the largest node has "
            f"{naturalsize(memory)}: lower --batch-size or take fewer --mlp-layers at a time"
        )


# -- on the terminal -----------------------------------------------------------------------


def show_plan(
    config: SecondOrderConfig, run: Effects, projection: neuron_plan.NeuronProjection
) -> None:
    """Bytes, passes and workers, before anything long starts."""
    meta, workers = run.store.meta, run.workers
    anew = from_images(run)
    if config.keep == "coefficients":
        passes = 1 if anew else 0
    else:
        passes = (1 + len(neuron_plan.groups(meta, anew, run.top_k))) if anew else 0
    unfinished = meta.shards - len(run.shards)
    facts: dict[str, object] = {
        "images": f"{meta.images:,} in {meta.shards:,} shards of {meta.shard_size:,}",
        "MLP layers": ", ".join(map(str, run.mlp_layers)),
        "passes of the model": f"{passes} at most, {workers.actors} × {workers.device}, batches "
        f"of {workers.batch_size}",
        "will write": f"{naturalsize(projection.store)} of {config.keep} as {run.dtype} before "
        f"compression, {naturalsize(projection.per_image)} an image; "
        f"{naturalsize(projection.states)} of moments and top images",
        "memory": f"{naturalsize(projection.worker)} an actor",
        "store": run.store.url,
    }
    if unfinished:
        facts["not extracted yet"] = f"{unfinished:,} shards, which are left out"
    if not run.covariance:
        facts["variance explained"] = (
            "over the top images only: covariances of these layers together are past "
            f"{naturalsize(neuron_plan.COVARIANCE_BYTES)}"
        )
    show_table(f"second-order effects of {meta.architecture} ({meta.weights})", facts)


def summary(
    config: SecondOrderConfig, store: Store, result: Result, bad: BadImages, seconds: float
) -> SecondOrderRun:
    """What was found, what was left out, and what to type next."""
    tables = {name: result.table(name).to_pandas() for name in ("neurons", "top_images")}
    directions = result.arrays("components")
    found = tables["neurons"]
    facts: dict[str, object] = {
        "images": f"{result.provenance['images']:,} ok, {bad.total():,} bad",
        **bad.rows(),
    }
    for layer, rows in found.groupby("layer"):
        alive = rows[rows["norm_max"] > 0]
        shares = [f"{np.median(alive['explained_top']):.0%} of the top images' variance"]
        if alive["explained"].notna().any():
            shares.append(f"{np.median(alive['explained']):.0%} of all images'")
        facts[f"MLP layer {layer}"] = (
            f"{len(alive):,} of {len(rows):,} neurons have effects; a direction explains "
            f"{' and '.join(shares)} (medians)"
        )
    files, size = map(sum, zip(*store.size().values(), strict=True))
    facts |= {
        "this run": f"{seconds:.0f} s",
        "store": f"{naturalsize(size)} in {files:,} files",
        "kept in": result.url,
    }
    show_table("done", facts)
    show_next(next_command(config))
    return SecondOrderRun(store, result, found, tables["top_images"], directions)


def next_command(config: SecondOrderConfig) -> str:
    """What the directions that were found are for."""
    weights = config.pretrained
    return command(
        "omp",
        store=config.store,
        mlp_layers=config.mlp_layers,
        pool="general",
        pretrained=weights if weights and weights.endswith(WEIGHT_SUFFIXES) else None,
    )


if __name__ == "__main__":
    run_job(main, tyro.cli(SecondOrderConfig, description=__doc__))
