"""Norms as modules have them: what they make of the stream, what they divide a token by, and how
they are folded into what follows."""

from __future__ import annotations

import logging
from functools import cache

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


def normed(norm: nn.Module, x_btd: Tensor, dtype: torch.dtype) -> Tensor:
    """The stream behind a norm, in the dtype of the matrix products that take it."""
    if _in_a_kernel(norm, x_btd, dtype):
        from .kernels import norm_rows

        return norm_rows(norm, x_btd, None, dtype)
    made: Tensor = norm(x_btd).to(dtype)
    return made


def add_normed(norm: nn.Module, x_btd: Tensor, written_btd: Tensor, dtype: torch.dtype) -> Tensor:
    """`normed` of the stream once something is added to it, in place."""
    if _in_a_kernel(norm, x_btd, dtype):
        from .kernels import norm_rows

        return norm_rows(norm, x_btd, written_btd, dtype)
    made: Tensor = norm(x_btd.add_(written_btd)).to(dtype)
    return made


def _in_a_kernel(norm: nn.Module, x_btd: Tensor, dtype: torch.dtype) -> bool:
    """Whether a float32 stream on a GPU is normed for products of fewer bits, no gradient passes,
    and the norm is one of those the kernel knows."""
    return (
        x_btd.is_cuda
        and x_btd.dtype == torch.float32
        and dtype in (torch.bfloat16, torch.float16)
        and not (torch.is_grad_enabled() and x_btd.requires_grad)
        and x_btd.stride(-1) == 1
        and getattr(norm, "weight", None) is not None
        and getattr(norm, "eps", None) is not None
        and kernels_run(x_btd.device)
    )


@cache
def kernels_run(device: torch.device) -> bool:
    """Whether kernels can be compiled here: Triton needs a compiler of C, and a place to keep what
    it made."""
    one_btd = torch.zeros(1, 1, 2, device=device)
    try:
        from .kernels import norm_rows

        norm_rows(nn.LayerNorm(2, device=device), one_btd, None, torch.bfloat16)
    except Exception as error:  # whatever it is, the plain operations do the same
        logging.getLogger("facet").warning(
            "norms and QuickGELU take several operations, which is slower: Triton cannot compile "
            "kernels on this machine (%s: %s)",
            type(error).__name__,
            error,
        )
        return False
    return True


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
