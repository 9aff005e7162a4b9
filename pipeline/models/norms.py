"""Norms as modules have them: what they divide a token by, and folding them into what follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Linear = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,)."""


class Divided(nn.Module):
    """What is left of a norm whose linear parts joined what comes behind it: x/σ.

    Parameters
    ----------
    norm : nn.Module
        A LayerNorm or an RMSNorm.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.eps, self.centred = float(norm.eps), centred(norm)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x * inverse_std(self, x)[..., None]


def centred(norm: nn.Module) -> bool:
    """Whether a norm subtracts the mean: a LayerNorm does, an RMSNorm does not."""
    return norm.centred if isinstance(norm, Divided) else isinstance(norm, nn.LayerNorm)


def inverse_std(norm: nn.Module, x: Tensor) -> Tensor:
    """1/σ that a norm multiplies the last axis by, without that axis; 1 where there is no norm."""
    if isinstance(norm, nn.Identity):
        return torch.ones_like(x[..., 0])
    eps = float(norm.eps)  # type: ignore[arg-type]
    if centred(norm):
        return (torch.var_mean(x, -1, correction=0)[0] + eps).rsqrt()
    return (x.square().mean(-1) + eps).rsqrt()


def folded(norm: nn.Module, linear: Linear) -> Linear:
    """A linear layer behind a norm as one that is applied to x/σ: W diag(γ) C, and W β + b."""
    if isinstance(norm, Divided):
        return linear
    weight, bias = linear
    gamma: Tensor | None = getattr(norm, "weight", None)
    beta: Tensor | None = getattr(norm, "bias", None)
    if beta is not None:
        bias = bias + weight @ beta
    if gamma is not None:
        weight = weight * gamma
    if centred(norm):
        weight = weight - weight.mean(1, keepdim=True)
    return weight, bias


def linear_of(module: nn.Module) -> Linear:
    """Weight and bias of a linear layer; zeros where it has no bias."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


@torch.no_grad()
def fold_behind(norm: nn.Module, linear: nn.Linear) -> nn.Module:
    """Have a norm's linear parts join the layer behind it, in place; what is left of the norm."""
    if isinstance(norm, nn.Identity | Divided):
        return norm
    weight, bias = folded(norm, linear_of(linear))
    linear.weight.copy_(weight)
    linear.bias = nn.Parameter(bias, requires_grad=False)
    return Divided(norm)
