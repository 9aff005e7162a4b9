"""The MLPs of blocks: neurons after the activation, and what they write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norms import Linear, folded, inverse_std, kernels_run

Activation = Callable[[Tensor], Tensor]


class Mlp(Protocol):
    """What a block asks of its MLP; parameters are given as they are kept, cast by the block."""

    down: Linear
    """What neurons write: weight (width, neuron) and bias (width,)."""

    def cast(self, dtype: torch.dtype) -> Mlp:
        """The same, to be run in a dtype."""

    def hidden(self, normed_btd: Tensor) -> Tensor:
        """Neurons, (batch, token, neuron), all that is not linear done."""


class PlainMlp:
    """down(norm(activation(up(x)))); a neuron is its activation, over the norm's σ where there is
    one, whose other parts are folded into what neurons write.

    Parameters
    ----------
    up : pair of Tensor
    activation : callable
    down : pair of Tensor
    norm : nn.Module, optional
        Between the activation and `down`.
    """

    def __init__(
        self, up: Linear, activation: Activation, down: Linear, norm: nn.Module | None = None
    ) -> None:
        self.up, self.activation = up, activation
        self.norm = None if isinstance(norm, nn.Identity) else norm
        self.down = down if self.norm is None else folded(self.norm, down)

    def cast(self, dtype: torch.dtype) -> PlainMlp:
        same = PlainMlp(cast(self.up, dtype), self.activation, cast(self.down, dtype))
        same.norm = self.norm
        return same

    def hidden(self, normed_btd: Tensor) -> Tensor:
        hidden_btn = activated(self.activation, F.linear(normed_btd, *self.up))
        if self.norm is not None:
            hidden_btn = hidden_btn * inverse_std(self.norm, hidden_btn)[..., None]
        return hidden_btn


class GatedMlp:
    """down(norm(activation(gate(x)) · value(x))): SwiGLU, GeGLU.

    A neuron is activation(gate) · value, over the norm's σ where there is one; the norm's other
    parts are linear, and folded into what neurons write.

    Parameters
    ----------
    gate, value : pair of Tensor
    activation : callable
    down : pair of Tensor
    norm : nn.Module
        Between the product and `down`; nn.Identity where there is none.
    """

    def __init__(
        self,
        gate: Linear,
        value: Linear,
        activation: Activation,
        down: Linear,
        norm: nn.Module | None = None,
    ) -> None:
        self.gate, self.value, self.activation = gate, value, activation
        self.norm = None if norm is None or isinstance(norm, nn.Identity) else norm
        self.down = down if self.norm is None else folded(self.norm, down)

    def cast(self, dtype: torch.dtype) -> GatedMlp:
        same = GatedMlp(
            cast(self.gate, dtype), cast(self.value, dtype), self.activation, cast(self.down, dtype)
        )
        same.norm = self.norm
        return same

    def hidden(self, normed_btd: Tensor) -> Tensor:
        gate_btn = activated(self.activation, F.linear(normed_btd, *self.gate))
        hidden_btn = gate_btn * F.linear(normed_btd, *self.value)
        if self.norm is not None:
            hidden_btn = hidden_btn * inverse_std(self.norm, hidden_btn)[..., None]
        return hidden_btn


def activated(activation: Activation, x_btn: Tensor) -> Tensor:
    """An activation of what a product made, which may be overwritten.

    QuickGELU, x · sigmoid(1.702 x), is three operations of PyTorch's, of which each reads and
    writes all neurons; where a GPU computes with fewer bits it is one here.
    """
    # By name, as open_clip and timm have each a class of it.
    if (
        type(activation).__name__ == "QuickGELU"
        and x_btn.is_cuda
        and x_btn.dtype in (torch.bfloat16, torch.float16)
        and not (torch.is_grad_enabled() and x_btn.requires_grad)
        and kernels_run(x_btn.device)
    ):
        from .kernels import quick_gelu_

        return quick_gelu_(x_btn)
    return activation(x_btn)


def cast(linear: Linear, dtype: torch.dtype) -> Linear:
    """A linear layer's parameters in a dtype."""
    weight, bias = linear
    return weight.detach().to(dtype), bias.detach().to(dtype)
