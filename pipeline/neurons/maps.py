"""The vectors G that second-order coefficients multiply, and what follows from them and s alone.

G_n^path = (W_V^{l',h} diag(γ^{l'}) C w_n)·head_map^{l',h} depends on the weights only. It is kept
in two factors: head_dim numbers for each path and neuron, and each head's map to the joint space.
Lengths and inner products of effects need only the Gram matrix of a neuron's vectors, path × path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models import UnsupportedModel, VisionModel, Weights, mean_maps, model_maps

from .choices import Convention, refuse_no_paths

# Neurons whose vectors are written out at once, for their Gram matrices (values).
_GRAM_VALUES = 1 << 24


def check_mlp_layers(model: VisionModel, mlp_layers: Sequence[int]) -> None:
    """Refuse layers that do not exist or that no attention comes after, and models without."""
    refuse_no_paths(model)
    last = model.second_order_layers - 1
    if not mlp_layers:
        raise ValueError(f"no MLP layers chosen: {model.name} has second-order layers 0 to {last}")
    for layer in mlp_layers:
        if layer == last + 1:
            raise ValueError(
                f"MLP layer {layer} is the last of {model.name}: no attention comes after it, so "
                f"its neurons have no second-order effect; choose from 0 to {last}"
            )
        if not 0 <= layer <= last:
            raise ValueError(
                f"MLP layer {layer} does not exist in {model.name}; choose from 0 to {last}"
            )


def check_neurons(model: VisionModel, count: int, neurons: Sequence[int]) -> None:
    """Refuse neurons that do not exist in a layer of so many."""
    if bad := [n for n in neurons if not 0 <= n < count]:
        raise ValueError(
            f"neurons {bad[:5]} do not exist: layers of {model.name} have neurons 0 to {count - 1}"
        )


def refuse_shares(model: VisionModel) -> None:
    """Refuse the equal-share convention where it says nothing of neurons."""
    if model.trunk_layers:
        raise UnsupportedModel(
            "the equal-share convention shares what a layer's attention adds among the components "
            f"before it in one stream, and the attention pool of {model.name} begins another: "
            "choose `convention` centred"
        )


def value_maps(weights: Weights, convention: Convention = "centred") -> NDArray[np.float64]:
    """(head, width, head_dim) float64: (W_V diag(γ) C)ᵀ, from a token of the stream to values.

    Still to be divided by the token's σ; without C under ``equal-share``.
    """
    norm = weights.norm if convention == "centred" else replace(weights.norm, centred=False)
    return np.ascontiguousarray(norm.fold(weights.value_hkd, axis=2).swapaxes(1, 2))


def head_maps(
    model: VisionModel, layers: Sequence[int], convention: Convention = "centred"
) -> NDArray[np.float64]:
    """(layer, head, head_dim, embed) float64: from values to the joint space, times σ."""
    maps_lhke = model_maps(model).head_map[list(layers)]
    if convention == "equal-share":
        means = mean_maps(model)
        maps_lhke = maps_lhke + means.head_mean[list(layers)][..., None] * means.mean_map
    return maps_lhke


@dataclass(frozen=True, eq=False)
class SecondOrderMaps:
    """The vectors of one MLP layer's neurons; P paths, N neurons.

    All functions take coefficients s, or deviations of s from a mean, in any one scale, and give
    effects in that scale: divided by σ·‖embedding‖ (`published_scale`) the published one.
    """

    values_pnk: Tensor
    """(path, neuron, head_dim): what a unit of each neuron makes of a path's values."""
    head_map_pke: Tensor
    """(path, head_dim, embed)."""
    gram_npp: Tensor
    """(neuron, path, path): inner products of a neuron's vectors G."""
    bias_pe: Tensor
    """(path, embed): the same flow for the MLP's output bias, a constant term of its own; to be
    multiplied by `NeuronParts.attention_blh`."""

    def effects(self, s_bpn: Tensor, neurons: Sequence[int]) -> Tensor:
        """φ of a few neurons, (batch, len(neurons), embed)."""
        chosen = list(neurons)
        vectors_pne = self.values_pnk[:, chosen] @ self.head_map_pke
        return torch.einsum("bpn,pne->bne", s_bpn[:, :, chosen], vectors_pne)

    def total(self, s_bpn: Tensor) -> Tensor:
        """Σ_n φ_n, (batch, embed), for coefficients masked or changed as one likes."""
        values_pbk = s_bpn.transpose(0, 1) @ self.values_pnk
        return values_pbk.transpose(0, 1).flatten(1) @ self.head_map_pke.flatten(0, 1)

    def norms(self, s_bpn: Tensor) -> Tensor:
        """‖φ_n‖, (batch, neuron), from the Gram matrices."""
        return effect_norms(self.gram_npp, s_bpn)

    def readout(self, directions_ne: Tensor) -> Tensor:
        """G·r, (path, neuron): ⟨φ_n, r_n⟩ = Σ_path s · readout."""
        back_pnk = directions_ne.to(self.head_map_pke) @ self.head_map_pke.transpose(1, 2)
        return (back_pnk * self.values_pnk).sum(-1)

    def lift(self, weights_np: Tensor) -> Tensor:
        """Σ_path weights · G, (neuron, embed)."""
        values_pnk = weights_np.T[:, :, None] * self.values_pnk
        return values_pnk.transpose(0, 1).flatten(1) @ self.head_map_pke.flatten(0, 1)


def second_order_maps(
    model: VisionModel,
    mlp_layer: int,
    dtype: torch.dtype = torch.float32,
    convention: Convention = "centred",
) -> SecondOrderMaps:
    """The maps of one MLP layer; computed in float64, kept in `dtype` on the model's device.

    Under ``equal-share``, which leaves out C, add `equal_share_offset` for the published effects.
    """
    check_mlp_layers(model, [mlp_layer])
    _check_convention(convention)
    if convention == "equal-share":
        refuse_shares(model)
    later, tower = model.readers(mlp_layer), model.tower()
    blocks, own = tower.blocks, [*tower.trunk, *tower.blocks][mlp_layer].weights
    written_dn, bias_d = (
        torch.from_numpy(x).to(model.device) for x in (own.down_dn, own.down_bias_d)
    )
    values, biases = [], []
    for layer in later:
        value_map_hkd = (
            torch.from_numpy(value_maps(blocks[layer].weights, convention))
            .to(model.device, torch.float64)
            .mT
        )
        values.append((value_map_hkd @ written_dn).mT.to(dtype))
        biases.append(value_map_hkd @ bias_d)
    head_map_pke = (
        torch.from_numpy(head_maps(model, later, convention))
        .flatten(0, 1)
        .to(model.device, torch.float64)
    )
    bias_pk = torch.cat(biases)
    bias_pe = torch.bmm(bias_pk[:, None], head_map_pke).squeeze(1)
    values_pnk = torch.cat(values)
    return SecondOrderMaps(
        values_pnk=values_pnk,
        head_map_pke=head_map_pke.to(dtype),
        gram_npp=gram_matrices(values_pnk, head_map_pke.to(dtype)),
        bias_pe=bias_pe.to(dtype),
    )


def gram_matrices(values_pnk: Tensor, head_map_pke: Tensor) -> Tensor:
    """(neuron, path, path): inner products of each neuron's vectors."""
    count, neurons, _ = values_pnk.shape
    gram_npp = values_pnk.new_empty(neurons, count, count)
    step = max(1, _GRAM_VALUES // (count * head_map_pke.shape[-1]))
    for start in range(0, neurons, step):
        vectors_npe = (values_pnk[:, start : start + step] @ head_map_pke).transpose(0, 1)
        gram_npp[start : start + step] = vectors_npe @ vectors_npe.transpose(1, 2)
    return gram_npp


def effect_norms(gram_npp: Tensor, s_bpn: Tensor) -> Tensor:
    """‖φ_n‖, (batch, neuron), of coefficients in any one scale."""
    rows_nbp = s_bpn.permute(2, 0, 1)
    squares_nb = (torch.bmm(rows_nbp, gram_npp) * rows_nbp).sum(-1)
    return squares_nb.clamp_(min=0).sqrt_().T


def published_scale(s_bpn: Tensor, ln_std_b: Tensor, embedding_be: Tensor) -> Tensor:
    """Coefficients of the published scale: effects divided by σ and by ‖embedding‖."""
    return s_bpn / (ln_std_b * embedding_be.norm(dim=1))[:, None, None]


def _check_convention(convention: str) -> None:
    if convention not in get_args(Convention):
        raise ValueError(f"convention {convention!r} is none of {', '.join(get_args(Convention))}")
