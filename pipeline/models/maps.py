"""The linear tail of the image tower, folded: from component space to the joint space.

embedding = P·(γ ⊙ (C z)/σ + β) is affine in the residual stream z of the class token once the
image's σ is known, so each component's way to the embedding is one fixed matrix (design.md,
section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .loading import VisionModel


@dataclass(frozen=True, eq=False)
class ModelMaps:
    """What the weights alone determine; float64.

    With u, mlps and σ of an image: embedding = [Σ u·head_map + Σ mlps·mlp_map
    + Σ attention_bias]/σ + bias.
    """

    head_map: NDArray[np.float64]
    """(layer, head, head_dim, embed): (P diag(γ) C W_O^{l,h})ᵀ."""
    mlp_map: NDArray[np.float64]
    """(width, embed): (P diag(γ) C)ᵀ."""
    attention_bias: NDArray[np.float64]
    """(layer, embed): P diag(γ) C b_O^l, still to be divided by σ."""
    bias: NDArray[np.float64]
    """(embed,): P β."""


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
    scaled_de = _scaled_projection(model)
    mlp_map_de = scaled_de - scaled_de.mean(axis=0)
    weights_ldhk = _out_weights(model)
    bias_ld = _out_biases(model)
    return ModelMaps(
        head_map=np.einsum("ldhk,de->lhke", weights_ldhk, mlp_map_de, optimize=True),
        mlp_map=mlp_map_de,
        attention_bias=bias_ld @ mlp_map_de,
        bias=_float64(model.visual.ln_post.bias) @ _float64(model.visual.proj),
    )


def mean_maps(model: VisionModel) -> MeanMaps:
    """Compute what the equal-share convention needs besides `model_maps`."""
    return MeanMaps(
        head_mean=_out_weights(model).mean(axis=1),
        attention_bias_mean=_out_biases(model).mean(axis=1),
        mean_map=_scaled_projection(model).sum(axis=0),
    )


def _scaled_projection(model: VisionModel) -> NDArray[np.float64]:
    """(width, embed): (P diag(γ))ᵀ."""
    return _float64(model.visual.ln_post.weight)[:, None] * _float64(model.visual.proj)


def _out_weights(model: VisionModel) -> NDArray[np.float64]:
    """(layer, width, head, head_dim): W_O of every head."""
    weights = np.stack([_float64(block.attn.out_proj.weight) for block in model.blocks])
    return weights.reshape(model.layers, model.width, model.heads, model.head_dim)


def _out_biases(model: VisionModel) -> NDArray[np.float64]:
    """(layer, width): b_O."""
    return np.stack([_float64(block.attn.out_proj.bias) for block in model.blocks])


def _float64(tensor: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().cpu().to(torch.float64).numpy()
    return array
