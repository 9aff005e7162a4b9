"""Second-order effects over a whole store, phase by phase; every phase goes on where it ended.

Coefficients are kept, if they are to be; their moments are gathered; with the means known, the
norms and the top images; from those, directions. A phase reads the coefficients of a layer where
the store keeps them, and passes the images through the model again where it does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from pipeline.cluster.work import Workers
from pipeline.identity import over
from pipeline.models import VisionModel
from pipeline.stats.moments import Moments, Statistics, finalize
from storage import neurons
from storage.neurons import State
from storage.store import Store

from .choices import Keep
from .directions import TopImages, directions_of, explained_variance
from .maps import SecondOrderMaps, second_order_maps
from .plan import groups
from .rows import pack
from .sinks import GatherMoments, GatherTop, KeepRows, Task, Top
from .workers import States, Wanted, from_model, from_store

# A bar: what it counts, and how many of it; gives a function that takes the number done.
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
# States are written after so much work at the least: what a kill can cost.
SAVE_SECONDS = 60.0
# Neurons whose directions are found at once (values of their top images).
_BLOCK_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class Effects:
    """Second-order effects of one run: its settings, and what does the work.

    Attributes
    ----------
    store : Store
        Opened ``r+``.
    model : VisionModel
        The store's own, on the CPU.
    workers : Workers
    memory : int
        Bytes that one actor needs.
    mlp_layers : tuple of int
    keep : Keep
    top_k : int
    dtype : str
        What is kept is rounded to it.
    covariance : bool
        Whether covariances are gathered, or variances alone.
    bar : Bar
    say : callable
        Told what is waited for.
    """

    store: Store
    model: VisionModel
    workers: Workers
    memory: int
    mlp_layers: tuple[int, ...]
    keep: Keep
    top_k: int
    dtype: str
    covariance: bool
    bar: Bar
    say: Callable[[str], None]

    @property
    def shards(self) -> list[int]:
        """The store's finished shards."""
        return sorted(self.store.done_shards())

    def over(self) -> dict[str, Any]:
        """Which images the run is over, JSON-able."""
        return over(self.store)


def kept_quantities(keep: Keep) -> tuple[str, ...]:
    """Arrays that are kept of a layer."""
    return {
        "coefficients": ("coefficients", "peaks", "norms"),
        "norms": ("norms",),
        "moments": (),
    }[keep]


def lacking(store: Store, mlp_layers: Sequence[int], quantity: str) -> dict[int, set[int]]:
    """Finished shards that a layer keeps no rows of, by layer."""
    shards = store.done_shards()
    return {at: shards - neurons.done(store.url, at, quantity) for at in mlp_layers}


def find_effects(run: Effects) -> tuple[dict[str, pd.DataFrame], xr.Dataset, int]:
    """All phases.

    Returns
    -------
    tables : dict of str to DataFrame
        ``neurons`` and ``top_images``, with the columns of ``tables.NEURONS``.
    directions : Dataset
        ``direction`` (layer, neuron, embed) float32.
    images : int
        How many were counted.
    """
    run.store.sweep(run.store.done_shards())
    for layer in run.mlp_layers:
        neurons.create(run.store.url, run.store.meta, layer, kept_quantities(run.keep), run.dtype)
    if run.keep == "coefficients":
        keep_rows(run)
    statistics = gather_moments(run)
    found = []
    for group in groups(run.store.meta, passed_layers(run), run.top_k):
        found += gather_top(run, group, {at: statistics[at] for at in group})
    for layer in run.mlp_layers:
        if layer not in passed_layers(run):
            found += gather_top(run, (layer,), {layer: statistics[layer]})
    found.sort(key=lambda layer: layer.mlp_layer)
    tables = {
        name: pd.concat([getattr(layer, name) for layer in found], ignore_index=True)
        for name in ("neurons", "top_images")
    }
    directions = xr.Dataset(
        {"direction": (("layer", "neuron", "embed"), np.stack([f.directions for f in found]))},
        {"layer": [f.mlp_layer for f in found]},
    )
    return tables, directions, found[0].images


def passed_layers(run: Effects) -> tuple[int, ...]:
    """Layers whose coefficients are not kept: every phase passes the images through the model."""
    missing = lacking(run.store, run.mlp_layers, "coefficients")
    return tuple(at for at in run.mlp_layers if missing[at])


def keep_rows(run: Effects) -> None:
    """Coefficients and peaks of every shard that lacks them, into the store."""
    missing = lacking(run.store, run.mlp_layers, "coefficients")
    work = [(s, tuple(at for at in run.mlp_layers if s in missing[at])) for s in run.shards]
    for _ in _states(run, KeepRows(), [one for one in work if one[1]], "coefficients"):
        pass


def _states(
    run: Effects, task: Task, work: list[Wanted], what: str
) -> Iterator[tuple[int, States]]:
    """States by passes of the model, with a bar."""
    if not work:
        return
    images = _images(run.store, [shard for shard, _ in work])
    with run.bar(f"{what}: images", images) as move:
        move(0)
        yield from from_model(
            run.store, task, run.model, run.workers, run.memory, work, move, run.say
        )
        move(images)


def _images(store: Store, shards: Sequence[int]) -> int:
    return sum(stop - start for start, stop in map(store.meta.rows, shards))


# -- gathering -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """How a state is kept: its name, identity, axes, and both ways between it and arrays."""

    name: str
    identity: dict[str, Any]
    dims: dict[str, tuple[str, ...]]
    arrays: Callable[[Any], dict[str, np.ndarray]]
    state: Callable[[dict[str, np.ndarray]], Any]


def _gather(run: Effects, task: Task, kind: _Kind, layers: Sequence[int]) -> dict[int, Any]:
    """A state over all shards, by layer; those that the store has are not counted again."""
    states, counted = {}, {}
    for layer in layers:
        kept = neurons.read_state(run.store.url, layer, kind.name, kind.identity)
        states[layer] = kind.state(kept.values) if kept.shards else None
        counted[layer] = kept.shards
    shards, anew = run.shards, passed_layers(run)
    work = [(s, tuple(at for at in layers if at in anew and s not in counted[at])) for s in shards]
    sources = [_states(run, task, [one for one in work if one[1]], kind.name)]
    sources += [
        _read(run, task, at, [s for s in shards if s not in counted[at]], kind.name)
        for at in layers
        if at not in anew
    ]
    for source in sources:
        saved, dirty = time.monotonic(), set()
        for shard, found in source:
            for layer, new in found.items():
                old = states[layer]
                states[layer] = new if old is None else task.merge(old, new)
                counted[layer].add(shard)
                dirty.add(layer)
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(run, kind, dirty, states, counted)
                saved = time.monotonic()
        _save(run, kind, dirty, states, counted)
    return states


def _read(
    run: Effects, task: Task, layer: int, shards: list[int], what: str
) -> Iterator[tuple[int, States]]:
    """States from the coefficients that are kept, with a bar."""
    if not shards:
        return
    images = _images(run.store, shards)
    with run.bar(f"{what} of layer {layer}: images", images) as move:
        done = 0
        move(done)
        for shard, found in from_store(run.store, task, layer, shards):
            yield shard, found
            done += _images(run.store, [shard])
            move(done)


def _save(
    run: Effects, kind: _Kind, dirty: set[int], states: dict[int, Any], counted: dict[int, set[int]]
) -> None:
    for layer in sorted(dirty):
        state = State(set(counted[layer]), kind.arrays(states[layer]))
        neurons.write_state(run.store.url, layer, kind.name, kind.identity, state, kind.dims)
    dirty.clear()


# -- moments -------------------------------------------------------------------------------


def moments_kind(store: Store, covariance: bool) -> _Kind:
    """How moments of coefficients are kept, for good."""
    second = "products" if covariance else "squares"

    def arrays(state: Moments) -> dict[str, np.ndarray]:
        values = {"count": np.int64(state.n), "mean": state.mean, second: state.m2}
        return {name: np.asarray(value) for name, value in values.items()}

    def state(values: dict[str, np.ndarray]) -> Moments:
        return Moments(int(values["count"]), values["mean"], values[second])

    identity = {"store": store.meta.digest(), "covariance": covariance}
    return _Kind("moments", identity, neurons.MOMENT_DIMS, arrays, state)


def gather_moments(run: Effects) -> dict[int, Statistics]:
    """Means, and covariances or variances, of every layer's coefficients, (neuron, path)."""
    kind = moments_kind(run.store, run.covariance)
    found = _gather(run, GatherMoments(run.covariance), kind, run.mlp_layers)
    return {layer: finalize(state) for layer, state in found.items()}


def kept_moments(store: Store, mlp_layer: int) -> Statistics | None:
    """Moments over all finished shards, if a run has gathered them."""
    for covariance in (True, False):
        kind = moments_kind(store, covariance)
        kept = neurons.read_state(store.url, mlp_layer, kind.name, kind.identity)
        if kept.shards and kept.shards == store.done_shards():
            return finalize(kind.state(kept.values))
    return None


# -- top images ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LayerEffects:
    """What was found of one layer; the tables with the columns of ``tables.NEURONS``."""

    mlp_layer: int
    images: int
    directions: np.ndarray
    neurons: pd.DataFrame
    top_images: pd.DataFrame


def _top_kind(run: Effects, keep_norms: bool) -> _Kind:
    def arrays(state: Top) -> dict[str, np.ndarray]:
        top = {name: value.numpy() for name, value in vars(state.top).items()}
        return {"count": np.asarray(state.images), "sum": state.norm_sum_n.numpy(), **top}

    def state(values: dict[str, np.ndarray]) -> Top:
        found = {name: torch.from_numpy(np.array(value)) for name, value in values.items()}
        top = {name: found[name] for name in ("images", "norms", "deviations", "peaks")}
        return Top(int(values["count"]), found["sum"], TopImages(**top))

    dims: dict[str, tuple[str, ...]] = {"count": (), "sum": ("neuron",)}
    dims |= dict.fromkeys(("images", "norms", "peaks"), ("neuron", "rank"))
    dims["deviations"] = ("neuron", "rank", "path")
    # Of what an earlier Facet was stopped at, without peaks of their own, nothing is taken.
    identity = {**run.over(), "top_k": run.top_k, "norms": keep_norms, "version": 2}
    return _Kind("top", identity, dims, arrays, state)


def gather_top(
    run: Effects, layers: tuple[int, ...], statistics: dict[int, Statistics]
) -> list[LayerEffects]:
    """Norms, top images and directions of some layers, whose maps are held together."""
    keep_norms = "norms" in kept_quantities(run.keep)
    kind = _top_kind(run, keep_norms)
    for layer in layers:
        if (
            keep_norms
            and not neurons.read_state(run.store.url, layer, kind.name, kind.identity).shards
        ):
            # Norms that are there may be about another mean.
            neurons.forget(run.store.url, layer, "norms")
    maps = {layer: second_order_maps(run.model, layer) for layer in layers}
    task = GatherTop(
        run.top_k,
        keep_norms,
        {layer: s.mean.T.astype(np.float32) for layer, s in statistics.items()},
        {layer: pack(m) for layer, m in maps.items()},
    )
    found = _gather(run, task, kind, layers)
    return [layer_effects(layer, found[layer], maps[layer], statistics[layer]) for layer in layers]


def layer_effects(
    mlp_layer: int, top: Top, maps: SecondOrderMaps, statistics: Statistics
) -> LayerEffects:
    """Directions of a layer's neurons, and its tables."""
    count, k, paths = top.top.deviations.shape
    step = max(1, _BLOCK_VALUES // ((k + paths) * paths))
    parts = []
    for start in range(0, count, step):
        block = slice(start, start + step)
        inside = replace(maps, values_pnk=maps.values_pnk[:, block], gram_npp=maps.gram_npp[block])
        rows = TopImages(**{name: values[block] for name, values in vars(top.top).items()})
        part = directions_of(rows, inside)
        explained = torch.full((len(rows.images),), torch.nan)
        if statistics.covariance is not None:
            covariance = torch.from_numpy(statistics.covariance[block])
            explained = explained_variance(part.directions, covariance, inside)
        parts.append((part, explained))
    directions, top_share, positive, scores = (
        torch.cat([getattr(part, name) for part, _ in parts]).numpy()
        for name in ("directions", "explained", "positive", "scores")
    )
    norms = top.top.norms.numpy()
    table = pd.DataFrame(
        {
            "layer": mlp_layer,
            "neuron": np.arange(count),
            "norm_mean": top.norm_sum_n.numpy() / top.images,
            "norm_max": norms[:, 0],
            "norm_large": norms[:, -1],
            "explained_top": top_share,
            "explained": torch.cat([explained for _, explained in parts]).numpy(),
            "positive": positive,
        }
    )
    images = pd.DataFrame(
        {
            "layer": mlp_layer,
            "neuron": np.arange(count).repeat(k),
            "rank": np.tile(np.arange(k), count),
            "image": top.top.images.numpy().ravel(),
            "norm": norms.ravel(),
            "score": scores.ravel(),
            "peak": top.top.peaks.numpy().ravel(),
        }
    )
    return LayerEffects(mlp_layer, top.images, directions.astype(np.float32), table, images)
