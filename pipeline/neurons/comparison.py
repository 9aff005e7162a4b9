"""Second-order effects beside first-order and indirect ones (Gandelsman 2025, Table 3.1).

For each layer: accuracy when the effects of all its neurons become their means, each kind of
effect by itself; and the share of a neuron's variance along its first principal component. The
indirect effects come from running the network again with activations at their means, token by
token; the others are linear corrections of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.extraction.finite import finite_rows, refuse_pass
from pipeline.heads.studies import NamedStep
from pipeline.models import VisionModel
from pipeline.stats import accuracy
from pipeline.stats.accuracy import Outcomes, predicted_classes
from pipeline.texts.classes import Classes
from pipeline.texts.labels import shard_labels
from storage.store import Store

from .ablation import NeuronStudy
from .directions import first_directions
from .effects import IndirectEffects, direct_map
from .forward import NeuronPass
from .maps import published_scale, second_order_maps
from .rows import OkImages, tensor
from .sinks import PictureSink, PictureTask, subset

EFFECTS = ("first-order", "indirect", "second-order")
# A re-run for every neuron and image: a sample of both, for the principal components.
NEURONS, IMAGES = 16, 500


def steps(mlp_layers: Sequence[int]) -> list[NamedStep]:
    """The ablations of some layers, in the order of the predictions."""
    return [
        NamedStep("effects", effect, str(layer), f"MLP layer {layer}: {effect} effects of neurons")
        for layer in mlp_layers
        for effect in EFFECTS
    ]


def sample(width: int) -> list[int]:
    """The neurons whose principal components are compared, spread over the layer."""
    return np.linspace(0, width - 1, min(NEURONS, width)).astype(int).tolist()


@dataclass(frozen=True, eq=False)
class EffectSums:
    """Sums over images, float64.

    Attributes
    ----------
    images : int
    activations_tn : (tokens, N)
        (1, N) of no images.
    first_e, second_e : (E,)
        Effects of all neurons together, first-order and second-order, published.
    """

    images: int
    activations_tn: Tensor
    first_e: Tensor
    second_e: Tensor


class _Probe:
    """What a batch shows of one layer."""

    def __init__(self, model: VisionModel, mlp_layer: int) -> None:
        self.layer = mlp_layer
        self.run = NeuronPass(model, [mlp_layer], ("totals", "class_neurons", "coefficients"))
        self.indirect = IndirectEffects(model, mlp_layer)
        self.direct_ne = direct_map(model, mlp_layer).to(model.device, torch.float32)

    def look(self, images_bchw: Tensor, images_b: Tensor) -> None:
        parts = self.run(images_bchw)
        finite_b = finite_rows(parts.embedding_be) & finite_rows(parts.totals[self.layer])
        refuse_pass(self.run.model, "effects", images_bchw, images_b, finite_b)
        self.norm_b = parts.embedding_be.norm(dim=1)
        self.unit_be = parts.embedding_be / self.norm_b[:, None]
        # First-order effects are these times the rows of `direct_ne`.
        self.direct_bn = parts.class_neurons[self.layer] / (parts.ln_std_b * self.norm_b)[:, None]
        self.first_be = self.direct_bn @ self.direct_ne
        self.second_be = parts.totals[self.layer] / self.norm_b[:, None]
        self.coefficients_bpn = published_scale(
            parts.coefficients[self.layer], parts.ln_std_b, parts.embedding_be
        )


@dataclass(frozen=True)
class GatherSums(PictureTask):
    """Means of activations at every token, and of effects of all neurons together.

    Attributes
    ----------
    reference : str or None
        Which images they are over.
    """

    reference: str | None

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> PictureSink:
        chosen = None if self.reference is None else subset(store, shard, self.reference)
        return _SumSink(store, mlp_layer, chosen)

    def merge(self, a: EffectSums, b: EffectSums) -> EffectSums:
        return add(a, b)


def add(a: EffectSums, b: EffectSums) -> EffectSums:
    """Sums over the images of both."""
    return EffectSums(
        a.images + b.images,
        a.activations_tn + b.activations_tn,
        a.first_e + b.first_e,
        a.second_e + b.second_e,
    )


class _SumSink:
    def __init__(self, store: Store, mlp_layer: int, chosen: Tensor | None) -> None:
        meta = store.meta
        self.layer, self.chosen = mlp_layer, chosen
        self.probe: _Probe | None = None
        zeros = [torch.zeros(meta.embed, dtype=torch.float64) for _ in range(2)]
        # Of how many tokens is known once there are pictures: a trunk may have more than its pool.
        activations_tn = torch.zeros(1, meta.neurons, dtype=torch.float64)
        self.state = EffectSums(0, activations_tn, *zeros)

    def add_pictures(self, pictures: OkImages) -> None:
        probe = self.probe = self.probe or _Probe(pictures.model, self.layer)
        images_bchw, images_b = pictures.images_bchw, pictures.images_b
        if self.chosen is not None:
            keep = torch.isin(images_b, self.chosen)
            images_bchw, images_b = images_bchw[keep.to(images_bchw.device)], images_b[keep]
        if not len(images_bchw):
            return
        probe.look(images_bchw, images_b)
        activations_btn = probe.indirect.activations(images_bchw)
        new = EffectSums(
            len(images_bchw),
            activations_btn.double().sum(0).cpu(),
            probe.first_be.double().sum(0).cpu(),
            probe.second_be.double().sum(0).cpu(),
        )
        self.state = add(self.state, new)

    def close(self) -> EffectSums:
        return self.state


@dataclass(frozen=True, eq=False)
class Compared:
    """Outcomes of some images, and effects of the sample of neurons on those of them that are in
    the sample, (n, neurons, E) by kind of effect.
    """

    outcomes: Outcomes
    effects: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Compare(PictureTask):
    """All three kinds of effect at their means.

    Attributes
    ----------
    where : str or None
    label_column : str
    classes : Classes
    readout_ce : (C, E) float
    sums : dict of int to EffectSums
    neurons : list of int
        The sample.
    vectors_pse : dict of int to (P, neurons, E)
        Their vectors G.
    last_image : int
        Images up to this one are in the sample.
    """

    where: str | None
    label_column: str
    classes: Classes
    readout_ce: NDArray[Any]
    sums: dict[int, EffectSums]
    neurons: list[int]
    vectors_pse: dict[int, NDArray[Any]]
    last_image: int

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> PictureSink:
        return _CompareSink(self, store, mlp_layer, shard)

    def merge(self, a: Compared, b: Compared) -> Compared:
        effects = a.effects
        if len(b.effects[EFFECTS[0]]):  # the sample lies in the first shards
            effects = {n: np.concatenate([a.effects[n], b.effects[n]]) for n in EFFECTS}
        return Compared(accuracy.add(a.outcomes, b.outcomes), effects)


class _CompareSink:
    def __init__(self, task: Compare, store: Store, mlp_layer: int, shard: int) -> None:
        self.task, self.layer = task, mlp_layer
        self.probe: _Probe | None = None
        self.labels = shard_labels(store, shard, task.where, task.label_column, task.classes)
        self.predicted = [np.zeros((1 + len(EFFECTS), 0), np.int32)]
        empty = np.zeros((0, len(task.neurons), store.meta.embed), np.float32)
        self.effects: dict[str, list[NDArray[np.float32]]] = {name: [empty] for name in EFFECTS}

    def add_pictures(self, pictures: OkImages) -> None:
        probe = self.probe = self.probe or _Probe(pictures.model, self.layer)
        probe.look(pictures.images_bchw, pictures.images_b)
        unit_be, sums = probe.unit_be, self.task.sums[self.layer]
        means_tn = (sums.activations_tn / sums.images).to(unit_be)
        first_e, second_e = (
            (total / sums.images).to(unit_be) for total in (sums.first_e, sums.second_e)
        )
        ablated_be = probe.indirect.ablate_all(pictures.images_bchw, means_tn)
        replaced = [
            unit_be,
            unit_be - (probe.first_be - first_e),
            ablated_be / ablated_be.norm(dim=1, keepdim=True),
            unit_be - (probe.second_be - second_e),
        ]
        scores_abc = torch.stack(replaced) @ tensor(self.task.readout_ce, unit_be.device).T
        keep = np.isin(pictures.images_b.numpy(), self.labels.images)
        predicted = predicted_classes(scores_abc.cpu()[:, keep].numpy())
        self.predicted.append(predicted.astype(np.int32))
        inside = (pictures.images_b <= self.task.last_image).to(unit_be.device)
        if inside.any():
            self._add_effects(pictures.images_bchw[inside], means_tn, probe, inside)

    def _add_effects(
        self, images_bchw: Tensor, means_tn: Tensor, probe: _Probe, inside: Tensor
    ) -> None:
        neurons = self.task.neurons
        vectors_pse = tensor(self.task.vectors_pse[self.layer], inside.device)
        indirect_bse, _ = probe.indirect(images_bchw, means_tn, neurons)
        s_bps = probe.coefficients_bpn[inside][:, :, neurons]
        found = {
            "first-order": probe.direct_bn[inside][:, neurons, None] * probe.direct_ne[neurons],
            "indirect": indirect_bse / probe.norm_b[inside][:, None, None],
            "second-order": torch.einsum("bps,pse->bse", s_bps, vectors_pse),
        }
        for name, effects_bse in found.items():
            self.effects[name].append(effects_bse.cpu().numpy())

    def close(self) -> Compared:
        predicted, labels, classes = (
            np.concatenate(self.predicted, 1),
            self.labels,
            self.task.classes,
        )
        outcomes = accuracy.count(predicted, labels.classes, len(classes.names), labels.groups)
        return Compared(outcomes, {n: np.concatenate(e) for n, e in self.effects.items()})


def compare(
    study: NeuronStudy,
    mlp_layers: Sequence[int],
    where: str | None,
    reference: str | None,
    label_column: str,
    classes: Classes,
    readout_ce: NDArray[Any],
) -> tuple[Outcomes, pd.DataFrame]:
    """The comparison over a store's finished shards.

    Parameters
    ----------
    where, reference : str or None
        Which images are classified, and which the means are over.

    Returns
    -------
    outcomes : Outcomes
        In the order of `steps`.
    explained : DataFrame
        With the columns of ``tables.EFFECTS``.
    """
    layers = tuple(mlp_layers)
    sums = study.pictures(GatherSums(reference), layers, "means")
    chosen = sample(study.store.meta.neurons)
    vectors = {}
    for at in layers:
        maps = second_order_maps(study.model, at)
        vectors[at] = (maps.values_pnk[:, chosen] @ maps.head_map_pke).numpy()
    last = study.image_number(IMAGES)
    task = Compare(where, label_column, classes, readout_ce, sums, chosen, vectors, last)
    found: dict[int, Compared] = study.pictures(task, layers, "effects")
    rows = [row for at in layers for row in _explained(at, found[at])]
    return accuracy.join([found[at].outcomes for at in layers]), pd.DataFrame(rows)


def _explained(mlp_layer: int, found: Compared) -> list[dict[str, Any]]:
    rows = []
    for name in EFFECTS:
        effects_bse = torch.from_numpy(found.effects[name])
        deviations_sbe = (effects_bse - effects_bse.mean(0)).movedim(1, 0)
        shares = first_directions(deviations_sbe).explained.numpy()
        rows.append(
            {
                "layer": mlp_layer,
                "effect": name,
                "neurons": len(shares),
                "images": len(effects_bse),
                "explained": float(shares.mean()),
            }
        )
    return rows
