"""What stands between matrix products of fewer bits, in one kernel of a GPU each.

A block reads and writes the stream, which is float32, far more often than its products need: what
a part wrote is added, the sum is normed, the norm is rounded to the products' dtype. Here a row is
read once and all three are done; and so are the steps of an activation. Only ``norms.py`` and
``mlps.py`` call this, where the kernels can run: importing this module needs Triton, which comes
with PyTorch's builds for CUDA.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from .norms import centred


@triton.jit
def _rows(
    x_ptr: Any,
    written_ptr: Any,
    weight_ptr: Any,
    bias_ptr: Any,
    out_ptr: Any,
    tokens: Any,
    width: Any,
    image_stride: Any,
    token_stride: Any,
    eps: Any,
    ADDS: tl.constexpr,
    BIASED: tl.constexpr,
    CENTRED: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # a large batch has more than 2^31 numbers
    column = tl.arange(0, COLUMNS)
    inside = column < width
    # The stream may be a slice of the first tokens; what is written and what is made never are.
    stream = x_ptr + (row // tokens) * image_stride + (row % tokens) * token_stride + column
    x = tl.load(stream, mask=inside, other=0.0)
    if ADDS:
        written = tl.load(written_ptr + row * width + column, mask=inside, other=0.0)
        x += written.to(tl.float32)
        tl.store(stream, x, mask=inside)
    if CENTRED:
        x = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    x *= 1 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    x *= tl.load(weight_ptr + column, mask=inside, other=0.0)
    if BIASED:
        x += tl.load(bias_ptr + column, mask=inside, other=0.0)
    tl.store(out_ptr + row * width + column, x.to(out_ptr.dtype.element_ty), mask=inside)


def norm_rows(
    norm: nn.Module, x_btd: Tensor, written_btd: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The norm of every token, (batch, token, width), in a dtype; computed in float32.

    Parameters
    ----------
    norm : nn.Module
        A LayerNorm, or an RMSNorm, that has a weight.
    x_btd : Tensor
        float32, a token's numbers side by side.
    written_btd : Tensor, optional
        Is added to `x_btd` first, which is overwritten by the sum.
    dtype : torch.dtype
    """
    batch, tokens, width = x_btd.shape
    out_btd = torch.empty(x_btd.shape, dtype=dtype, device=x_btd.device)
    bias = getattr(norm, "bias", None)
    columns = triton.next_power_of_2(width)
    with torch.cuda.device_of(x_btd):
        _rows[(batch * tokens,)](
            x_btd,
            x_btd if written_btd is None else written_btd.contiguous(),
            norm.weight,
            norm.weight if bias is None else bias,
            out_btd,
            tokens,
            width,
            x_btd.stride(0),
            x_btd.stride(1),
            float(norm.eps),  # type: ignore[arg-type]
            ADDS=written_btd is not None,
            BIASED=bias is not None,
            CENTRED=centred(norm),
            COLUMNS=columns,
            num_warps=min(max(columns // 256, 1), 8),
        )
    return out_btd


@triton.jit
def _quick_gelu(x_ptr: Any, count: Any, SIZE: tl.constexpr) -> None:
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < count
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    x *= tl.sigmoid(1.702 * x)
    tl.store(x_ptr + at, x.to(x_ptr.dtype.element_ty), mask=inside)


def quick_gelu_(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x) in place, computed in float32 and rounded once.

    Parameters
    ----------
    x : Tensor
        Any shape and dtype of floats; its numbers lie side by side.
    """
    size = 1024
    with torch.cuda.device_of(x):
        _quick_gelu[(triton.cdiv(x.numel(), size),)](x, x.numel(), SIZE=size)
    return x
