"""Rules by which relevance is handed back through a layer (Chefer et al. 2021, section 3; α = 1).

Relevance of an output is split among what it was computed from, in proportion to what each gave.
Norms, softmax and activations pass it on as it is. An output that nothing gave to, 0/0, is dead:
its relevance is lost. All else is conserved, to rounding.

Tensors are float64, but for weights; their first axis is the picture's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def parted(relevance: Tensor, whole: Tensor) -> Tensor:
    """R/Z, relevance for each unit of what was given; 0 where Z = 0."""
    return torch.where(whole == 0, 0, relevance / whole)


def linear(
    relevance_bo: Tensor, x_bi: Tensor, weight_oi: Tensor, product_bo: Tensor
) -> tuple[Tensor, Tensor]:
    """Relevance of a linear layer's input: R_i = Σ_j (x⁺w⁺ + x⁻w⁻)_ij / Z_j · R_j.

    The bias gets none. As x⁺w⁺ + x⁻w⁻ = (xw + |x||w|)/2, and xw is known from the forward pass,
    three matrix products do it. Nothing cancels in them that would have to come out near zero, so
    they run as wide as the weight is.

    Parameters
    ----------
    relevance_bo : (batch, …, out)
    x_bi : (batch, …, in)
    weight_oi : (out, in)
        float32 or float64.
    product_bo : (batch, …, out)
        x Wᵀ, without the bias.

    Returns
    -------
    relevance : (batch, …, in)
    per_unit : (batch, …, in)
        The same before it is multiplied by x: finite where x = 0, too.
    """
    run, size_oi = weight_oi.dtype, weight_oi.abs()
    bound_bo = x_bi.abs().to(run) @ size_oi.T
    whole_bo = product_bo + bound_bo
    # Where all of xw is negative, product and bound cancel but for rounding. Nor may R/Z overflow.
    eps, least = torch.finfo(run).eps, torch.finfo(run).tiny ** 0.5
    dead_bo = whole_bo <= (8 * eps * bound_bo).clamp_(min=least)
    share_bo = (relevance_bo / whole_bo).masked_fill_(dead_bo, 0).to(run)
    per_unit_bi = share_bo @ weight_oi
    per_unit_bi.addcmul_(x_bi.sign().to(run), share_bo @ size_oi)
    return x_bi * per_unit_bi, per_unit_bi.to(x_bi.dtype)


def operands(share: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of both operands of Z = L·Rᵀ: a half goes to each.

    Parameters
    ----------
    share : (…, row, column)
        Relevance of Z for each unit of it, R/Z.
    left : (…, row, inner)
    right : (…, column, inner)

    Returns
    -------
    left, right : as given
    """
    half = share / 2
    return left * (half @ right), right * (half.transpose(-1, -2) @ left)


def addition(relevance: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of both summands: each in its elements' proportion, then, picture by picture,
    rescaled so that their sums are as |Σa| to |Σb|.

    With Σa and Σb of opposite signs, what cancels would otherwise grow from layer to layer.
    """
    share = parted(relevance, left + right)
    parts = left * share, right * share
    sums = [part.flatten(1).sum(1) for part in parts]
    factor = parted(relevance.flatten(1).sum(1), sums[0].abs() + sums[1].abs())
    rescaled = (
        part.mul_((sum_b.sign() * factor).view(-1, *[1] * (part.ndim - 1)))
        for part, sum_b in zip(parts, sums, strict=True)
    )
    return next(rescaled), next(rescaled)
