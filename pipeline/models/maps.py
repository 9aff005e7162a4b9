"""The linear tail of the image tower, folded: from component space to the joint space.

embedding = P·(γ ⊙ (C z)/σ + β) is affine in the residual stream z of the class token once the
image's σ is known, so each component's way to the embedding is one fixed matrix: see
``docs/mathematics.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import UnsupportedModel
from .loading import VisionModel


@dataclass(frozen=True, eq=False)
class ModelMaps:
    """What the weights alone determine; float64.

    With u, mlps and σ of an image: embedding = [Σ u·head_map + Σ mlps·mlp_map
    + Σ attention_bias + Σ bias_weights·bias_map]/σ + bias.
    """

    head_map: NDArray[np.float64]
    """(layer, head, head_dim, embed): (P diag(γ) C W_O^{l,h})ᵀ."""
    mlp_map: NDArray[np.float64]
    """(width, embed): (P diag(γ) C)ᵀ."""
    attention_bias: NDArray[np.float64]
    """(layer, embed): P diag(γ) C b_O^l, still to be divided by σ."""
    bias: NDArray[np.float64]
    """(embed,): P β, and the projection's own bias."""
    bias_map: NDArray[np.float64] | None = None
    """(layer, embed): like `attention_bias`, of what is written in another multiple for every
    image; None where nothing is."""
    pool_neuron_map: NDArray[np.float64] | None = None
    """(neuron, embed): what a neuron of an attention pool's MLP writes, of models that have one."""
    channel_map: NDArray[np.float64] | None = None
    """(head, channel, head_dim): W_Vᵀ of the pool of a convolutional network."""


@dataclass(frozen=True, eq=False)
class MeanMaps:
    """What centring (C) removes; only the published equal-share convention needs it. float64."""

    head_mean: NDArray[np.float64]
    """(layer, head, head_dim): dot product with u gives the mean over the width of W_O u."""
    attention_bias_mean: NDArray[np.float64]
    """(layer,): mean over the width of b_O^l."""
    mean_map: NDArray[np.float64]
    """(embed,): P γ, where a constant vector 1 of the residual stream would go, times σ."""


def model_maps(model: VisionModel) -> ModelMaps:
    """Compute the maps, in float64 on the CPU whatever the model runs in."""
    tower = model.tower()
    tail, norm, projection_de = tower.tail, tower.tail.norm, tower.tail.projection_de
    mlp_map_de = norm.fold(projection_de, axis=0)
    weights = [block.weights for block in tower.blocks]
    out_ldhk = np.stack([w.out_dhk for w in weights])
    bias_ld = np.stack([w.out_bias_d for w in weights])
    varying_ld = np.stack(
        [
            np.zeros(len(mlp_map_de)) if w.varying_bias_d is None else w.varying_bias_d
            for w in weights
        ]
    )
    if tower.late:  # every bias is read by the weights of its image
        bias_ld, varying_ld = np.zeros_like(bias_ld), bias_ld + varying_ld
    first, refined = weights[0], model.refined
    return ModelMaps(
        head_map=np.einsum("ldhk,de->lhke", out_ldhk, mlp_map_de, optimize=True),
        mlp_map=mlp_map_de,
        attention_bias=bias_ld @ mlp_map_de,
        bias=norm.bias @ projection_de + (0 if tail.bias_e is None else tail.bias_e),
        bias_map=varying_ld @ mlp_map_de if model.varying_bias else None,
        pool_neuron_map=first.down_dn.T @ mlp_map_de if "pool_neurons" in refined else None,
        channel_map=first.value_hkd.swapaxes(1, 2) if "channels" in refined else None,
    )


def mean_maps(model: VisionModel) -> MeanMaps:
    """Compute what the equal-share convention needs besides `model_maps`.

    Raises
    ------
    UnsupportedModel
        If the convention says nothing of the model.
    """
    tower = model.tower()
    if model.varying_bias or not tower.tail.norm.centred:
        raise UnsupportedModel(
            f"the equal-share convention spreads the mean that a last LayerNorm subtracts and "
            f"biases that are the same for every image, and {model.name} has no such: choose "
            "`convention` centred"
        )
    weights = [block.weights for block in tower.blocks]
    scaled_de = tower.tail.norm.weight[:, None] * tower.tail.projection_de
    return MeanMaps(
        head_mean=np.stack([w.out_dhk for w in weights]).mean(axis=1),
        attention_bias_mean=np.stack([w.out_bias_d for w in weights]).mean(axis=1),
        mean_map=scaled_de.sum(axis=0),
    )
