"""Concepts by neurons: those that are active on a picture say what is in it, with their codes.

A neuron is active where its mean-removed second-order effect is longer than on 98 of 100 images.
Its effect has a sign along the neuron's direction r_n, and the direction a code of texts,
r_n ≈ Σ_j γ_nj text_j. So the score of a text is

    score_j = Σ_layers Σ_{n active} γ_nj ⟨φ_n − mean φ_n, r_n⟩,

and a neuron whose negative projection meets a negative coefficient speaks for it. The published
score (Gandelsman 2025, section B.1) has the length of the effect in place of the projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models import VisionModel
from pipeline.neurons.maps import effect_norms, second_order_maps
from pipeline.neurons.phases import kept_moments
from pipeline.neurons.rows import Rows
from storage.errors import Remedy, StoreError
from storage.results import Result
from storage.store import Store

from .codes import Coded, Codes
from .long import Long, long_effects

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerEffects:
    """What makes lengths and projections of the coefficients of an MLP layer's neurons.

    Attributes
    ----------
    mean_pn : (P, N)
        Mean coefficients over the store's images, published scale.
    readout_pn : (P, N)
        What the neurons' directions make of coefficients.
    gram_npp : (N, P, P)
        Inner products of the neurons' vectors.
    """

    mean_pn: Tensor
    readout_pn: Tensor
    gram_npp: Tensor

    def lengths(self, rows: Rows) -> Array:
        """‖φ_n − mean‖ over ‖embedding‖, (B, N)."""
        deviations = rows.deviations(self.mean_pn).to(self.gram_npp)
        return effect_norms(self.gram_npp, deviations).double().cpu().numpy()

    def projections(self, rows: Rows) -> Array:
        """⟨φ_n − mean, r_n⟩ over ‖embedding‖, (B, N)."""
        found = (rows.deviations(self.mean_pn) * self.readout_pn).sum(1)
        return found.double().cpu().numpy()


@dataclass(frozen=True, eq=False)
class ByNeurons:
    """Scores of texts by neurons of one or several MLP layers.

    Attributes
    ----------
    codes : Codes
    long : dict of int to Long
        When neurons are active, by MLP layer.
    effects : dict of int to LayerEffects
        Empty where the model was not asked: then there are scores of lengths alone.
    published : bool
        Whether a neuron weighs what its effect is long, in place of its projection.
    """

    codes: Codes
    long: dict[int, Long]
    effects: dict[int, LayerEffects]
    published: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """M texts, in the order of scores."""
        return self.codes.texts

    def active(self, layer: int, lengths_bn: Array) -> NDArray[np.bool_]:
        """Which neurons are active, (B, N)."""
        return lengths_bn > self.long[layer].lengths_n

    def weights(self, rows: Mapping[int, Rows]) -> dict[int, Array]:
        """What each neuron weighs, (B, N) by MLP layer; 0 where it is not active.

        Parameters
        ----------
        rows : mapping of int to Rows
            The same images, by MLP layer.
        """
        found = {}
        for layer, of in rows.items():
            lengths_bn = self.effects[layer].lengths(of)
            weigh_bn = lengths_bn if self.published else self.effects[layer].projections(of)
            found[layer] = np.where(self.active(layer, lengths_bn), weigh_bn, 0.0)
        return found

    def weights_of_lengths(self, lengths: Mapping[int, Array]) -> dict[int, Array]:
        """The published weights, where lengths are known: (B, N) by MLP layer."""
        return {
            layer: np.where(self.active(layer, lengths_bn), lengths_bn, 0.0).astype(np.float64)
            for layer, lengths_bn in lengths.items()
        }

    def scores(self, rows: Mapping[int, Rows]) -> Array:
        """Scores, (B, M), of images whose coefficients are known."""
        return self.codes.add(self.weights(rows))


def long_of(store: Store, layers: Sequence[Coded]) -> dict[int, Long]:
    """When neurons of coded layers are active, by MLP layer."""
    return {of.mlp_layer: long_effects(store, of.effects, of.mlp_layer) for of in layers}


def layer_effects(
    store: Store, model: VisionModel, layers: Sequence[Coded]
) -> dict[int, LayerEffects]:
    """What lengths and projections take, by MLP layer: see `effects_of_layer`."""
    return {of.mlp_layer: effects_of_layer(store, model, of.mlp_layer, of.effects) for of in layers}


def effects_of_layer(
    store: Store, model: VisionModel, mlp_layer: int, effects: Result
) -> LayerEffects:
    """What lengths and projections of a layer take.

    Parameters
    ----------
    store : Store
    model : VisionModel
        The store's own; its device holds what is found.
    mlp_layer : int
    effects : Result
        Second-order effects of the layer, whose directions are meant.

    Raises
    ------
    StoreError
        If the mean effects are not kept, or are those of other images than there are now.
    """
    moments = kept_moments(store, mlp_layer)
    if moments is None:
        raise StoreError(
            f"the mean effects of MLP layer {mlp_layer} are not kept in {store.url}, or of other "
            "images than there are now",
            Remedy.anew("second_order", store.url, mlp_layers=mlp_layer),
        )
    maps = second_order_maps(model, mlp_layer, model.wide["dtype"])
    directions = effects.arrays("components")["direction"].sel(layer=mlp_layer).values
    return LayerEffects(
        torch.from_numpy(moments.mean.T.copy()).to(maps.head_map_pke),
        maps.readout(torch.from_numpy(directions).to(maps.head_map_pke)),
        maps.gram_npp,
    )
