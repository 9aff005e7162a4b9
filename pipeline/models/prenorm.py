"""The block that most ViTs are built of, for families to fill with their own parameters.

Attention is written out as input projection, attention, output projection: what a head contributes
is fixed by the class token's row of the attention output *before* the output projection, which any
forward pass computes anyway. In the last block only the class token is carried past the keys and
values, which pays for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tower import Attention, Layers, Linear, Norm, Weights, float64


class PreNormBlock:
    """x += W_O·attention(norm_1(x)) + b_O, then x += MLP(norm_2(x)); the tail reads token 0.

    Parameters
    ----------
    heads, head_dim : int
    dtype : torch.dtype
        Of matrix products; norms and the stream stay as they are.
    last : bool
        Whether no block comes after it.
    norms : pair of nn.LayerNorm
        Before the attention and before the MLP.
    qkv, out, up, down : pair of Tensor
        Weight and bias: queries, keys and values in one, (3 · heads · head_dim, width); the
        output projection; the MLP's two layers.
    activation : callable
    """

    def __init__(
        self,
        *,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        last: bool,
        norms: tuple[nn.LayerNorm, nn.LayerNorm],
        qkv: Linear,
        out: Linear,
        up: Linear,
        down: Linear,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        self.heads, self.head_dim, self.dtype, self.last = heads, head_dim, dtype, last
        self.norm_1, self.norm_2 = norms
        self.activation = activation
        self._qkv, self._out, self._up, self._down = qkv, out, up, down

    # Cast when first run: whoever asks for the weights alone needs no copies.

    @cached_property
    def qkv(self) -> Linear:
        return self._cast(self._qkv)

    @cached_property
    def out(self) -> Linear:
        return self._cast(self._out)

    @cached_property
    def up(self) -> Linear:
        return self._cast(self._up)

    @cached_property
    def down(self) -> Linear:
        return self._cast(self._down)

    def _cast(self, linear: Linear) -> Linear:
        weight, bias = linear
        return weight.detach().to(self.dtype), bias.detach().to(self.dtype)

    @property
    def layers(self) -> Layers:
        return Layers(
            norm_1=self.norm_1,
            qkv=self.qkv,
            out=self.out,
            norm_2=self.norm_2,
            up=self.up,
            activation=self.activation,
            down=self.down,
        )

    @property
    def weights(self) -> Weights:
        (weight, bias), (out, out_bias), (down, down_bias) = self._qkv, self._out, self._down
        inner = self.heads * self.head_dim
        return Weights(
            norm=Norm.of(self.norm_1),
            value_hkd=float64(weight)[2 * inner :].reshape(self.heads, self.head_dim, -1),
            value_bias_hk=float64(bias)[2 * inner :].reshape(self.heads, self.head_dim),
            out_dhk=float64(out).reshape(-1, self.heads, self.head_dim),
            out_bias_d=float64(out_bias),
            down_dn=float64(down),
            down_bias_d=float64(down_bias),
        )

    def attention(self, x_btd: Tensor) -> Attention:
        normed_btd = self.norm_1(x_btd).to(self.dtype)
        weight, bias = self.qkv
        if not self.last:
            return Attention(*self._split(F.linear(normed_btd, weight, bias)))
        inner = self.heads * self.head_dim
        return Attention(
            *self._split(F.linear(normed_btd[:, :1], weight[:inner], bias[:inner])),
            *self._split(F.linear(normed_btd, weight[inner:], bias[inner:])),
        )

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        return (
            projected.unflatten(-1, (-1, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        )

    def inverse_std(self, x_btd: Tensor) -> Tensor:
        variance_bt, _ = torch.var_mean(x_btd, -1, correction=0)
        return (variance_bt + self.norm_1.eps).rsqrt()

    def attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        mixed_bhtk = F.scaled_dot_product_attention(
            attention.queries, attention.keys, attention.values
        )
        mixed_btd = mixed_bhtk.transpose(1, 2).flatten(2)
        x_btd = x_btd[:, : mixed_btd.shape[1]].add_(F.linear(mixed_btd, *self.out))
        return x_btd, mixed_btd[:, 0]

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        mixed_bqd = mixed_bhqk.transpose(1, 2).flatten(2)
        return x_btd[:, : mixed_bqd.shape[1]] + F.linear(mixed_bqd, *self.out)

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        hidden_btn = self.activation(F.linear(self.norm_2(x_btd).to(self.dtype), *self.up))
        return hidden_btn, F.linear(hidden_btn, *self.down)

    def rest(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
        x_btd, u_bd = self.attend(x_btd, attention)
        _, written_btd = self.mlp(x_btd)
        return x_btd.add_(written_btd), u_bd, written_btd[:, 0]


def embed_patches(images_bchw: Tensor, filters_dcyx: Tensor) -> Tensor:
    """A convolution whose patches do not overlap, (batch, patch, width), row by row.

    It is a product, then; cuDNN's convolution would round it to TF32.
    """
    return F.linear(_patches(images_bchw, filters_dcyx.shape[2:]), filters_dcyx.flatten(1))


def _patches(images_bchw: Tensor, side: Sequence[int]) -> Tensor:
    """(batch, patch, 3 · height · width), in the order in which a convolution meets them."""
    b, c, height, width = images_bchw.shape
    down, across = height // side[0], width // side[1]
    cut = images_bchw[:, :, : down * side[0], : across * side[1]]
    cut = cut.reshape(b, c, down, side[0], across, side[1])
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, down * across, -1)
