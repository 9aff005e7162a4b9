"""The block of EVA02-E: norms behind attention and MLP, before what they write joins the stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UnsupportedModel
from .norms import Linear, centred, inverse_std
from .prenorm import PreNormBlock, add_for, mix
from .tower import Attention, Block, Layers, Neurons, Norm, Weights, Written, float64, neurons

# Classes of timm's blocks that are built so.
CLASSES = ("EvaBlockPostNorm", "ResPostBlock", "ResPostRelPosBlock")


def norms_behind(trunk: Any) -> bool:
    """Whether the blocks of a trunk of timm's have their norms behind attention and MLP."""
    return type(trunk.blocks[0]).__name__ in CLASSES


class PostNormBlock(PreNormBlock):
    """x += norm_1(W_O·attention(x) + b_O), then x += norm_2(MLP(x)).

    Kept is u/σ_1: then what heads write is the same for all images, and b_O is what varies. A
    neuron is its activation over σ_2. What the MLP's own bias writes varies, too, and belongs to no
    neuron.

    Parameters
    ----------
    norms : pair of nn.Module
        Behind the attention and behind the MLP.
    **parts
        As `PreNormBlock`.
    """

    def __init__(self, *, norms: tuple[nn.Module, nn.Module], **parts: Any) -> None:
        super().__init__(norms=(nn.Identity(), nn.Identity()), **parts)
        self._behind_1, self._behind_2 = norms

    @cached_property
    def down(self) -> Linear:
        weight, _ = _scaled(self._behind_2, self._run_mlp.down)
        return weight, _beta(self._behind_2, weight).to(weight.dtype)

    @property
    def mlp_bias(self) -> None:
        return None

    @property
    def layers(self) -> Layers:
        raise UnsupportedModel(
            "relevance is handed back through norms before attention and MLP, and the blocks of "
            "this model have them behind: choose other methods"
        )

    @property
    def weights(self) -> Weights:
        inner = self.heads * self.head_dim
        (weight, bias), width = self._qkv, len(self._out[0])
        out, out_bias = _scaled(self._behind_1, _double(self._out))
        down, _ = _scaled(self._behind_2, _double(self._mlp.down))
        return Weights(
            norm=Norm.none(width),
            value_hkd=float64(weight)[2 * inner :].reshape(self.heads, self.head_dim, -1),
            value_bias_hk=float64(bias)[2 * inner :].reshape(self.heads, self.head_dim),
            out_dhk=float64(out).reshape(-1, self.heads, self.head_dim),
            out_bias_d=float64(_beta(self._behind_1, out)),
            down_dn=float64(down),
            down_bias_d=float64(_beta(self._behind_2, down)),
            varying_bias_d=float64(out_bias),
        )

    @property
    def scale(self) -> Callable[[Tensor], Tensor]:
        return self._scale

    def _scale(self, mixed_bqd: Tensor) -> Tensor:
        inner_bq = torch.ones_like(mixed_bqd[..., 0])
        if self.inner is not None:
            inner_bq = inverse_std(self.inner, mixed_bqd)
        return inner_bq * inverse_std(
            self._behind_1, self._projected(mixed_bqd * inner_bq[..., None])
        )

    def attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        x_btd, u_bd, _ = self._attend(x_btd, attention)
        return x_btd, u_bd

    def _attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
        """Stream, u and the multiple of what the bias writes."""
        mixed_btd = self._normed(mix(attention))
        out_btd = self._projected(mixed_btd)
        inverse_bt = inverse_std(self._behind_1, out_btd)
        x_btd = x_btd[:, : mixed_btd.shape[1]].add_(self._behind_1(out_btd))
        return x_btd, self.reading(mixed_btd * inverse_bt[..., None]), self.reading(inverse_bt)

    def _projected(self, mixed_bqd: Tensor) -> Tensor:
        """What the norm behind the attention gets, as wide as the stream."""
        return F.linear(mixed_bqd.to(self.dtype), *self.out).to(self._qkv[0].dtype)

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        written_bqd: Tensor = self._behind_1(self._projected(self._normed(mixed_bhqk)))
        return x_btd[:, : written_bqd.shape[1]] + written_bqd

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        hidden_btn, out_btd = self._mlp_out(x_btd)
        inverse_bt1 = inverse_std(self._behind_2, out_btd)[..., None]
        return hidden_btn * inverse_bt1, self._behind_2(out_btd)

    def _mlp_out(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        hidden_btn = self._run_mlp.hidden(x_btd.to(self.dtype))
        return hidden_btn, F.linear(hidden_btn, *self._run_mlp.down).to(x_btd.dtype)

    def rest(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Written:
        x_btd, u_bd, weight_b = self._attend(x_btd, attention)
        written_btd: Tensor = self._behind_2(self._mlp_out(x_btd)[1])
        normed_btd = add_for(behind, x_btd, written_btd)
        return Written(x_btd, u_bd, self.reading(written_btd), weight_b, normed_btd)

    def neurons(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Neurons:
        return neurons(self, x_btd, attention)


def _scaled(norm: nn.Module, linear: Linear) -> Linear:
    """A linear layer before a norm, its output centred and scaled as the norm does but for σ."""
    weight, bias = linear
    if centred(norm):
        weight, bias = weight - weight.mean(0, keepdim=True), bias - bias.mean()
    gamma = norm.weight.detach().to(weight.dtype)  # type: ignore[operator]
    return weight * gamma[:, None], bias * gamma


def _beta(norm: nn.Module, like: Tensor) -> Tensor:
    """β of a norm, zeros where it has none."""
    beta: Tensor | None = getattr(norm, "bias", None)
    return like.new_zeros(len(like)) if beta is None else beta.detach()


def _double(linear: Linear) -> Linear:
    return linear[0].detach().double(), linear[1].detach().double()
