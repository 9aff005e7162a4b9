"""Second-order effects of neurons over a set of images: norms, top images, directions.

    facet second-order --store out/ --mlp-layers 8-10

A store that does not exist is made first, with --images, --model and --pretrained. The same
command again goes on where a stopped run ended: coefficients are kept shard by shard; of what is
gathered over images, a kill costs a minute's work and the shards under way. The job is long, as it
is two: where there is no store it makes one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
import xarray as xr
from humanize import naturalsize

from jobs import extract
from jobs.console import TELLER, progress_bar, run_job, show_table
from jobs.scaffold import actors, found_or_made, save, show_done
from jobs.settings import choose_place, command, refuse_bounds, refuse_unused
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.extraction.store import refuse_other_model
from pipeline.identity import over, settings
from pipeline.images.bad import BadImages
from pipeline.models import ModelSpec, check_supported
from pipeline.models.arithmetic import TF32
from pipeline.neurons.phases import Effects, Keep, find_effects
from pipeline.neurons.plan import COVARIANCE_BYTES, NeuronProjection
from pipeline.neurons.results import JOB, parse_mlp_layers
from pipeline.neurons.setup import (
    EffectsSpec,
    check_images,
    cpu_model,
    passes,
    plan_effects,
    refuse_bytes,
)
from pipeline.neurons.tables import NEURONS
from storage import neurons, open_store, urls
from storage.errors import FacetError
from storage.results import Result
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
    file, that file, if it is no longer where it was."""
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
    workers: Where = "ray"
    """Where work is done: on a Ray cluster that is joined or started, or here, in this process."""
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
    choose_place(config)
    url = urls.absolute(config.store)
    spec = check(config, url)
    store = open_or_extract(config, url)
    bad = check_images(store, config.max_bad, config.top_k)
    identity = {
        "settings": settings(config)
        | {"mlp_layers": list(spec.mlp_layers), "store_dtype": spec.dtype(store)},
        "over": over(store),
    }
    make = partial(find, config, identity, store, spec)
    # What is to be kept of every image may be gone, or of fewer images.
    result = make() if spec.missing(store) else found_or_made(store.url, JOB, identity, make)
    return summary(config, store, result, bad, time.monotonic() - started)


def find(
    config: SecondOrderConfig, identity: dict[str, Any], store: Store, spec: EffectsSpec
) -> Result:
    """Go through the phases, and keep what is found."""
    machines.connect()
    model = cpu_model(store, None if config.pretrained == "none" else config.pretrained)
    run, projection = plan_effects(
        store,
        model,
        spec,
        device=config.device,
        actors=actors(config),
        batch_size=config.batch_size,
        teller=replace(
            TELLER,
            bar=partial(progress_bar, kept="finished shards, and sums of a minute ago, are kept"),
        ),
    )
    show_plan(run, projection)
    refuse_bytes(store, projection)
    tables, directions, images = find_effects(run)
    facts = {
        "mlp_layers": list(spec.mlp_layers),
        "images": images,
        "over": identity["over"],
        "tf32": TF32,
    }
    result = save(
        store.url, JOB, config, facts,
        identity=identity, tables=tables, schemas=NEURONS, arrays={"components": directions},
    )  # fmt: skip
    for layer in spec.mlp_layers:
        neurons.drop_state(store.url, layer, "top")
    return result


# -- before anything starts ----------------------------------------------------------------


def check(config: SecondOrderConfig, url: str) -> EffectsSpec:
    """Refuse what cannot work before a model or an image is touched."""
    refuse_bounds(config, "max_bad", top_k=1)
    machines.check_device(config.device)
    existing = find_metadata(url)
    if existing is None:
        wanted = {n: getattr(config, n) for n in ("images", "model", "pretrained")}
        if absent := [f"--{name}" for name, value in wanted.items() if value is None]:
            raise FacetError(
                f"there is no store at {url}: give the one that is meant by --store, or, to make "
                f"it, --images, --model and --pretrained ({', '.join(absent)} not given)"
            )
        asked = ModelSpec(config.model or "", config.pretrained or "")
        layers = check_supported(asked).layers
    else:
        if config.keep == "moments":
            refuse_unused(config, ["store_dtype"], "--keep coefficients and norms")
        layers = existing.layers
    mlp_layers = parse_mlp_layers(config.mlp_layers, layers)
    if existing is not None:
        refuse_other_model(url, existing, config.model, config.pretrained)
        urls.check_writable(url)
    return EffectsSpec(mlp_layers, config.keep, config.top_k, config.store_dtype)


def open_or_extract(config: SecondOrderConfig, url: str) -> Store:
    """The store; made or, where --images is given, brought to its end first."""
    if config.images is None:
        return open_store(url, mode="r+")
    asked = extract.ExtractConfig(
        images=config.images,
        model=config.model or "",
        pretrained=config.pretrained or "",
        store=config.store,
        store_dtype=config.store_dtype or "float16",
        batch_size=config.batch_size,
        device=config.device,
        num_actors=config.num_actors,
        workers=config.workers,
        max_bad=config.max_bad,
    )
    existing = find_metadata(url)
    return extract.main(asked if existing is None else extract.as_begun(asked, existing))


# -- on the terminal -----------------------------------------------------------------------


def show_plan(run: Effects, projection: NeuronProjection) -> None:
    """Bytes, passes and workers, before anything long starts."""
    meta, workers = run.store.meta, run.workers
    unfinished = meta.shards - len(run.shards)
    facts: dict[str, object] = {
        "images": f"{meta.images:,} in {meta.shards:,} shards of {meta.shard_size:,}",
        "MLP layers": ", ".join(map(str, run.mlp_layers)),
        "passes of the model": f"{passes(run)} at most, {workers.actors} × {workers.device}, "
        f"batches of {workers.batch_size}",
        "will write": f"{naturalsize(projection.store)} of {run.keep} as {run.dtype} before "
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
            f"{naturalsize(COVARIANCE_BYTES)}"
        )
    show_table(f"second-order effects of {meta.architecture} ({meta.weights})", facts)


def summary(
    config: SecondOrderConfig, store: Store, result: Result, bad: BadImages, seconds: float
) -> SecondOrderRun:
    """What was found, what was left out, and what to type next."""
    tables = {name: result.table(name).to_pandas() for name in ("neurons", "top_images")}
    files, size = map(sum, zip(*store.size().values(), strict=True))
    show_done(
        {
            "images": f"{result.provenance['images']:,} ok, {bad.total():,} bad",
            **bad.rows(),
            **{
                f"MLP layer {layer}": said_of(rows)
                for layer, rows in tables["neurons"].groupby("layer")
            },
            "store": f"{naturalsize(size)} in {files:,} files",
        },
        seconds,
        result,
        next_command(config),
    )
    return SecondOrderRun(store, result, **tables, directions=result.arrays("components"))


def said_of(neurons: pd.DataFrame) -> str:
    """How many neurons of a layer have effects, and how far one direction holds what they write."""
    alive = neurons[neurons["norm_max"] > 0]
    shares = [f"{np.median(alive['explained_top']):.0%} of the top images' variance"]
    if alive["explained"].notna().any():
        shares.append(f"{np.median(alive['explained']):.0%} of all images'")
    return (
        f"{len(alive):,} of {len(neurons):,} neurons have effects; a direction explains "
        f"{' and '.join(shares)} (medians)"
    )


def next_command(config: SecondOrderConfig) -> str:
    """What the directions that were found are for."""
    return command(
        "omp",
        store=config.store,
        mlp_layers=config.mlp_layers,
        pool="general",
    )


if __name__ == "__main__":
    run_job(main, tyro.cli(SecondOrderConfig, description=__doc__))
