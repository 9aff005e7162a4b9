"""Zero-shot accuracy without neurons' second-order effects (Gandelsman 2025, Figure 3.3, B.2, B.3).

Every effect of a layer's neurons becomes its mean, or only those that are large, or small, for
their neuron; or every effect becomes its mean plus its projection on the neuron's direction. All
are linear corrections of the embedding, from coefficients that the store keeps, or from a pass
of the model where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.cluster.work import Workers
from pipeline.heads.studies import NamedStep
from pipeline.models import VisionModel
from pipeline.stats.accuracy import Outcomes, add, count, join, predicted_classes
from pipeline.stats.moments import Moments
from pipeline.texts.classes import Classes
from pipeline.texts.labels import shard_labels
from storage import ledger, neurons
from storage.errors import Remedy, StoreError
from storage.results import Result
from storage.store import Store

from .effects import ablate
from .maps import second_order_maps
from .phases import Bar, kept_moments
from .plan import groups
from .rows import Packed, Rows, pack, tensor, unpack
from .sinks import GatherMoments, PictureTask, Sink, Task
from .workers import States, from_model, from_store

SERIES = (
    "without all neurons",
    "without small norms",
    "without large norms",
    "reconstruction from PC 1",
)
# A norm found again may differ from the one in the table by its rounding.
_ROUNDING = 1e-6


def steps(mlp_layers: Sequence[int]) -> list[NamedStep]:
    """The ablations of some layers, in the order of the predictions."""
    return [
        NamedStep("neurons", series, str(layer), f"MLP layer {layer} {series}")
        for layer in mlp_layers
        for series in SERIES
    ]


@dataclass(frozen=True, eq=False)
class AblatedLayer:
    """What the ablations of one layer need.

    Attributes
    ----------
    maps : packed SecondOrderMaps
    mean_pn : (P, N)
        Mean coefficients over all images, published: norms are of what is left of an effect
        without it.
    reference_pn : (P, N)
        Mean coefficients that effects are replaced by.
    large_n : (N,)
        Norm from which on an effect counts as large.
    directions_ne : (N, E)
    """

    maps: Packed
    mean_pn: NDArray[Any]
    reference_pn: NDArray[Any]
    large_n: NDArray[Any]
    directions_ne: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Classify:
    """Outcomes of a shard's images of a subset, with and without neurons.

    Attributes
    ----------
    where : str or None
    label_column : str
    classes : Classes
    readout_ce : (C, E) float
        Unit embeddings of the classes.
    layers : dict of int to AblatedLayer
    """

    where: str | None
    label_column: str
    classes: Classes
    readout_ce: NDArray[Any]
    layers: dict[int, AblatedLayer]

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> Sink:
        return _Sink(self, store, mlp_layer, shard)

    def merge(self, a: Outcomes, b: Outcomes) -> Outcomes:
        return add(a, b)


class _Sink:
    def __init__(self, task: Classify, store: Store, mlp_layer: int, shard: int) -> None:
        self.task, self.layer = task, task.layers[mlp_layer]
        self.labels = shard_labels(store, shard, task.where, task.label_column, task.classes)
        self.predicted = [np.zeros((1 + len(SERIES), 0), np.int32)]
        self.device: torch.device | None = None

    def add(self, rows: Rows) -> None:
        if self.device is None:
            self.device = rows.unit_be.device
            self.maps = unpack(self.layer.maps, self.device)
            self.mean_pn, self.reference_pn, self.large_n, self.directions_ne, self.readout_ce = (
                tensor(values, self.device)
                for values in (
                    self.layer.mean_pn,
                    self.layer.reference_pn,
                    self.layer.large_n,
                    self.layer.directions_ne,
                    self.task.readout_ce,
                )
            )
        norms_bn = self.maps.norms(rows.deviations(self.mean_pn))
        large_bn = norms_bn >= self.large_n * (1 - _ROUNDING)
        deviations_bpn = rows.deviations(self.reference_pn)
        removed = ablate(deviations_bpn, large_bn, self.directions_ne, self.maps)
        taken = [
            torch.zeros_like(rows.unit_be),
            removed.all_neurons,
            removed.small,
            removed.large,
            removed.beside_component,
        ]
        keep = np.isin(rows.images_b.numpy(), self.labels.images)
        scores_abc = (rows.unit_be - torch.stack(taken)) @ self.readout_ce.T
        predicted = predicted_classes(scores_abc.cpu()[:, keep].numpy())
        self.predicted.append(predicted.astype(np.int32))

    def close(self) -> Outcomes:
        predicted, labels = np.concatenate(self.predicted, 1), self.labels
        return count(predicted, labels.classes, len(self.task.classes.names), labels.groups)


def layer_of(
    store: Store,
    model: VisionModel,
    result: Result,
    mlp_layer: int,
    reference: Moments | None,
) -> AblatedLayer:
    """What a second-order result says of a layer, and the moments over the reference images."""
    moments = kept_moments(store, mlp_layer)
    if moments is None:
        raise StoreError(
            f"the moments of MLP layer {mlp_layer} in {store.url} are not over all of its finished "
            "shards",
            Remedy.anew("second_order", store.url, mlp_layers=mlp_layer),
        )
    table = result.table("neurons")
    norms = table["norm_large"].to_numpy()[table["layer"].to_numpy() == mlp_layer]
    directions = result.arrays("components")["direction"].sel(layer=mlp_layer).values
    maps = pack(second_order_maps(model, mlp_layer))
    mean_pn = moments.mean.T.astype(np.float32)
    reference_pn = mean_pn if reference is None else reference.mean.T.astype(np.float32)
    return AblatedLayer(maps, mean_pn, reference_pn, norms, directions)


@dataclass(frozen=True, eq=False)
class NeuronStudy:
    """A study of neurons over a store's finished shards.

    Attributes
    ----------
    store : Store
    model : VisionModel
        The store's own, on the CPU.
    workers : Workers
        For layers whose coefficients are not kept.
    memory : int
        Bytes that one of them needs.
    bar : Bar
    say : callable
        Told what is waited for.
    """

    store: Store
    model: VisionModel
    workers: Workers
    memory: int
    bar: Bar
    say: Callable[[str], None]

    def predict(
        self,
        result: Result,
        mlp_layers: Sequence[int],
        task: Callable[[dict[int, AblatedLayer]], Classify],
        reference: str | None = None,
    ) -> Outcomes:
        """Outcomes of all ablations, in the order of `steps`.

        Parameters
        ----------
        result : Result
            Of the second-order job.
        mlp_layers : sequence of int
        task : callable
            What is counted, from what the ablations of the layers need.
        reference : str, optional
            Which images the means are over, by columns of the image table.
        """
        store = self.store
        means: dict[int, Moments] = {}
        if reference is not None:
            gather = GatherMoments(covariance=False, where=reference)
            for group, source in self._sources(lambda group: gather, mlp_layers):
                what = f"means of MLP layer {', '.join(map(str, group))}: shards"
                means |= self._with_bar(source, gather.merge, what)
        found: dict[int, Outcomes] = {}

        def classify(group: Sequence[int]) -> Classify:
            return task(
                {at: layer_of(store, self.model, result, at, means.get(at)) for at in group}
            )

        for group, source in self._sources(classify, mlp_layers):
            what = f"without neurons of MLP layer {', '.join(map(str, group))}: shards"
            found |= self._with_bar(source, add, what)
        return join([found[at] for at in mlp_layers])

    def _sources(
        self, task: Callable[[Sequence[int]], Task], mlp_layers: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Iterator[tuple[int, States]]]]:
        """Layers that are gone through together, and their states of every finished shard.

        Kept coefficients are read, layer by layer; the others come from passes of the model.
        """
        store, shards = self.store, sorted(self.store.done_shards())
        kept = [at for at in mlp_layers if not set(shards) - _done(store, at)]
        for at in kept:
            yield (at,), from_store(store, task((at,)), at, shards)
        for group in groups(store.meta, [at for at in mlp_layers if at not in kept], 0):
            wanted = [(shard, group) for shard in shards]
            yield group, from_model(
                store, task(group), self.model, self.workers, self.memory, wanted,
                lambda images: None, self.say,
            )  # fmt: skip

    def pictures(self, task: PictureTask, mlp_layers: tuple[int, ...], what: str) -> States:
        """What all shards' pictures themselves give, by layer, with a bar."""
        shards = sorted(self.store.done_shards())
        images = sum(stop - start for start, stop in map(self.store.meta.rows, shards))
        wanted = [(shard, mlp_layers) for shard in shards]
        with self.bar(f"{what}: images", images) as move:
            move(0)
            source = from_model(
                self.store, task, self.model, self.workers, self.memory, wanted, move, self.say
            )
            states = _merged(source, task.merge)
            move(images)
        return states

    def image_number(self, count: int) -> int:
        """The ``count``-th image that is ok, or the last."""
        for shard in sorted(self.store.done_shards()):
            known = ledger.read_part(self.store.data, shard)
            numbers = np.asarray(known["index"])[np.asarray(known["ok"])]
            if count <= len(numbers):
                return int(numbers[count - 1])
            count -= len(numbers)
        return self.store.meta.images - 1

    def _with_bar(
        self, source: Iterator[tuple[int, States]], merge: Callable[[Any, Any], Any], what: str
    ) -> States:
        with self.bar(what, len(self.store.done_shards())) as move:
            move(0)
            return _merged(source, merge, move)


def _merged(
    source: Iterator[tuple[int, States]],
    merge: Callable[[Any, Any], Any],
    report: Callable[[int], None] = lambda shards: None,
) -> States:
    """States of all shards, merged as they come, by layer."""
    states: States = {}
    for done, (_, found) in enumerate(source):
        for at, new in found.items():
            states[at] = merge(states[at], new) if at in states else new
        report(done + 1)
    return states


def _done(store: Store, mlp_layer: int) -> set[int]:
    return neurons.done(store.url, mlp_layer, "coefficients")
