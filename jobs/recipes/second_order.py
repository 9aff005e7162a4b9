"""The recipe of ``facet second-order``: what neurons write through later heads.

Two in one: where there is no store it makes one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from humanize import naturalsize

from jobs import extract
from jobs.console import TELLER, progress_bar, show_table
from jobs.recipes import extract as extraction
from jobs.scaffold import actors, found_or_made, save, show_done
from jobs.second_order import SecondOrderConfig, to_extract
from jobs.settings import command, pool_of
from jobs.steps import opened
from pipeline.identity import over, settings
from pipeline.images.bad import BadImages
from pipeline.models.arithmetic import TF32
from pipeline.neurons.choices import beside_pool, check_images, parse_mlp_layers
from pipeline.neurons.phases import Effects, find_effects
from pipeline.neurons.plan import COVARIANCE_BYTES, NeuronProjection
from pipeline.neurons.results import JOB
from pipeline.neurons.setup import (
    EffectsSpec,
    cpu_model,
    passes,
    plan_effects,
    refuse_bytes,
    settle_passes,
)
from pipeline.neurons.tables import NEURONS
from pipeline.telling import several
from storage import neurons, urls
from storage.metadata import Metadata
from storage.results import Result
from storage.store import Store
from storage.views import find_metadata


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


def run(config: SecondOrderConfig) -> SecondOrderRun:
    """Make the store if there is none, go through the phases, sum up."""
    started = time.monotonic()
    store = open_or_extract(config, urls.absolute(config.store))
    mlp_layers = parse_mlp_layers(config.mlp_layers, store.meta)
    spec = EffectsSpec(mlp_layers, config.keep, config.top_k, config.store_dtype)
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
    model = cpu_model(store, None if config.pretrained == "none" else config.pretrained)
    settle_passes(store, model, spec.mlp_layers, config.device, TELLER.say)
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


def open_or_extract(config: SecondOrderConfig, url: str) -> Store:
    """The store; made or, where --images is given, brought to its end first."""
    if config.images is None:
        return opened(url, "r+")
    asked = to_extract(config)
    existing = find_metadata(url)
    return extract.main(asked if existing is None else extraction.as_begun(asked, existing))


# -- on the terminal -----------------------------------------------------------------------


def show_plan(run: Effects, projection: NeuronProjection) -> None:
    """Bytes, passes and workers, before anything long starts."""
    meta, workers = run.store.meta, run.workers
    unfinished = meta.shards - len(run.shards)
    facts: dict[str, object] = {
        "images": f"{meta.images:,} in {several(meta.shards, 'shard')} of {meta.shard_size:,}",
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
            **left_out(store.meta),
            "store": f"{naturalsize(size)} in {files:,} files",
        },
        seconds,
        result,
        next_command(config, store),
    )
    return SecondOrderRun(store, result, **tables, directions=result.arrays("components"))


def left_out(meta: Metadata) -> dict[str, str]:
    """What the effects do not hold."""
    said = beside_pool(meta)
    return {"not in effects": said} if said else {}


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


def next_command(config: SecondOrderConfig, store: Store) -> str:
    """What the directions that were found are for."""
    return command(
        "omp",
        store=config.store,
        mlp_layers=config.mlp_layers,
        pool=pool_of(store.meta.source),
    )
