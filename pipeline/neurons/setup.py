"""What a run of second-order effects will do, before it does it: images, workers, bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pipeline.cluster import machines
from pipeline.cluster.room import refuse_memory, refuse_room
from pipeline.cluster.work import choose_workers
from pipeline.extraction.run import seconds_here
from pipeline.models import VisionModel
from pipeline.telling import SILENT, Teller, several
from pipeline.texts.encoding import store_model
from storage import neurons
from storage.store import Store

from .choices import Keep
from .phases import Effects, kept_quantities, lacking, passed_layers
from .plan import COVARIANCE_BYTES, NeuronProjection, covariance_bytes, groups, project


@dataclass(frozen=True)
class EffectsSpec:
    """What the user asked for.

    Attributes
    ----------
    mlp_layers : tuple of int
    keep : Keep
    top_k : int
        Images that a neuron's direction is taken from.
    store_dtype : str or None
        What is kept is rounded to it; None: as what is kept already, or as the store.
    """

    mlp_layers: tuple[int, ...]
    keep: Keep = "coefficients"
    top_k: int = 100
    store_dtype: str | None = None

    def dtype(self, store: Store) -> str:
        """What is kept is rounded to it."""
        kept = {d for at in self.mlp_layers for d in neurons.kept(store.url, at).values()}
        return self.store_dtype or (max(kept) if kept else store.meta.store_dtype)

    def missing(self, store: Store) -> bool:
        """Whether a finished shard lacks rows that are to be kept."""
        return any(
            shards
            for name in kept_quantities(self.keep)
            for shards in lacking(store, self.mlp_layers, name).values()
        )


def cpu_model(store: Store, pretrained: str | None = None) -> VisionModel:
    """The store's own model, on the CPU, from where it goes to the actors."""
    model = store_model(store, pretrained)
    return replace(model, module=model.module.cpu(), device=torch.device("cpu"))


def settle_passes(
    store: Store,
    model: VisionModel,
    mlp_layers: tuple[int, ...],
    device: str,
    say: Callable[[str], None],
) -> None:
    """Settle where the images pass through the model: twice, at a pass and a layer's effects."""
    shards = sorted(store.done_shards())
    images = sum(stop - start for start, stop in map(store.meta.rows, shards))
    seconds = seconds_here(store.meta, model, (1 + len(mlp_layers)) * images, device)
    machines.settle(seconds, f"{several(images, 'image')} in {several(len(shards), 'shard')}", say)


def plan_effects(
    store: Store,
    model: VisionModel,
    spec: EffectsSpec,
    *,
    device: str = "auto",
    actors: int | None = None,
    batch_size: int | None = None,
    teller: Teller = SILENT,
) -> tuple[Effects, NeuronProjection]:
    """Settings that follow from the store and the cluster, and the bytes they need.

    Parameters
    ----------
    store : Store
        Opened ``r+``.
    model : VisionModel
        See ``cpu_model``.
    spec : EffectsSpec
    device, actors, batch_size
        See ``choose_workers``.
    teller : Teller
    """
    layers, dtype = spec.mlp_layers, spec.dtype(store)
    covariance = covariance_bytes(store.meta, layers) <= COVARIANCE_BYTES
    quantities = kept_quantities(spec.keep)
    absent = {
        (name, at): sum(
            stop - start for start, stop in map(store.meta.rows, lacking(store, [at], name)[at])
        )
        for name in quantities
        for at in layers
    }

    def projection(batch_size: int) -> NeuronProjection:
        return project(
            store.meta,
            layers,
            dict.fromkeys(quantities, dtype),
            absent=absent,
            k=spec.top_k,
            covariance=covariance,
            batch_size=batch_size,
            parameters=sum(p.numel() for p in model.module.parameters()),
        )

    workers = choose_workers(
        machines.resources(),
        device,
        actors,
        batch_size,
        shards=store.meta.shards,
        fit=lambda batch: machines.memory() // projection(batch).worker,
    )
    chosen = projection(workers.batch_size)
    run = Effects(
        store,
        model,
        workers,
        chosen.worker,
        layers,
        spec.keep,
        spec.top_k,
        dtype,
        covariance,
        teller.bar,
        teller.say,
    )
    return run, chosen


def passes(run: Effects) -> int:
    """How often the images pass through the model, at most."""
    anew = passed_layers(run)
    if not anew or run.keep == "coefficients":
        return 1 if anew else 0
    return 1 + len(groups(run.store.meta, anew, run.top_k))


def refuse_bytes(store: Store, projection: NeuronProjection) -> None:
    """Refuse what the disk or the largest machine cannot hold."""
    refuse_room(
        store.url,
        projection.store + projection.states,
        "choose fewer `mlp_layers`, or `keep` norms or moments",
    )
    refuse_memory(projection.worker, "lower `batch_size` or take fewer `mlp_layers` at a time")
