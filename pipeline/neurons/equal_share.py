"""The published equal-share convention of second-order effects, to compare numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models import VisionModel, mean_maps, model_maps

from .forward import NeuronParts
from .maps import check_mlp_layers, head_maps, refuse_shares, value_maps


def equal_share_offset(model: VisionModel, mlp_layer: int, parts: NeuronParts) -> Tensor:
    """What the published convention adds to each neuron's effect, the same for all of a layer.

    Means and biases on the way are split in equal shares (Gandelsman 2025, Eq. B.5): those of the
    norm before and of the attention of layer l' over the 2l'+1 components before it and the N
    neurons, those of the last norm over 2L+1 components besides, and the MLP's output bias over
    its neurons.

    Parameters
    ----------
    model : VisionModel
    mlp_layer : int
    parts : NeuronParts
        With the quantity ``shifts``.

    Returns
    -------
    Tensor
        (batch, embed), divided by σ: φ = Σ_path s·G/σ + offset.
    """
    check_mlp_layers(model, [mlp_layer])
    refuse_shares(model)
    if parts.shift_blh is None:
        raise ValueError("the equal-share convention needs the quantity 'shifts' of a pass")
    maps, means = model_maps(model), mean_maps(model)
    std_b = parts.ln_std_b[:, None]

    def tensor(array: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(std_b)

    tail_be = std_b * tensor(maps.bias) - parts.mean_b[:, None] * tensor(means.mean_map)
    sum_be = torch.zeros_like(tail_be)
    blocks = model.tower().blocks
    mlp_bias_d = blocks[mlp_layer].weights.down_bias_d
    for layer in range(mlp_layer + 1, model.layers):
        head_map_hke = head_maps(model, [layer], "equal-share")[0]
        weights = blocks[layer].weights
        value_map_hdk = value_maps(weights, "equal-share")

        def joint(
            values_hk: NDArray[np.float64], out: NDArray[np.float64] = head_map_hke
        ) -> NDArray[np.float64]:
            return np.einsum("hk,hke->he", values_hk, out)

        constant_e = joint(weights.value_bias_hk + weights.value_hkd @ weights.norm.bias).sum(0)
        constant_e += maps.attention_bias[layer]
        constant_e += means.attention_bias_mean[layer] * means.mean_map
        shift_be = parts.shift_blh[:, layer] @ tensor(joint(value_map_hdk.sum(1)))
        share_be = tensor(constant_e) - shift_be + tail_be / (2 * model.layers + 1)
        own_he = joint(np.einsum("hdk,d->hk", value_map_hdk, mlp_bias_d))
        sum_be += share_be / (2 * layer + 1) + parts.attention_blh[:, layer] @ tensor(own_he)
    return sum_be / model.neurons / std_b
