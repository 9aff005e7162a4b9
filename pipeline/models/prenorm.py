"""The block that most ViTs are built of, for families to fill with their own parameters.

Attention is written out as input projection, attention, output projection: what a head contributes
is fixed by what the tail reads of the attention output *before* the output projection, which any
forward pass computes anyway. Where the tail reads the class token alone, nothing else is carried
past the last block's keys and values, which pays for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UnsupportedModel
from .mlps import Mlp, PlainMlp, cast
from .norms import Linear, add_normed, folded, inverse_std, normed
from .reading import Reading
from .tower import Attention, Block, Layers, Neurons, Norm, Weights, Written, float64

Positions = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Queries and keys, (batch, head, token, head_dim), normed and rotated as the model does. Of the
queries there may be the first alone."""


class PreNormBlock:
    """x += W_O·norm_in(attention(norm_1(x))) + b_O, then x += MLP(norm_2(x)).

    Parameters
    ----------
    heads, head_dim : int
    dtype : torch.dtype
        Of matrix products; norms and the stream stay as they are.
    last : bool
        Whether no block comes after it.
    reading : Reading
        What the tail reads; the same object for all blocks of a tower.
    norms : pair of nn.Module
        Before the attention and before the MLP.
    qkv, out : pair of Tensor
        Weight and bias: queries, keys and values in one, (3 · heads · head_dim, width); the
        output projection.
    mlp : Mlp
    positions : callable, optional
        What becomes of queries and keys before they meet.
    bias_hqt : Tensor or callable, optional
        (head, token, token), added to the attention's logits; made when it is needed.
    inner : nn.Module, optional
        A norm over all heads' output, before the output projection. Kept is u/σ of it, its other
        parts are linear and join the output projection.
    """

    def __init__(
        self,
        *,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        last: bool,
        reading: Reading,
        norms: tuple[nn.Module, nn.Module],
        qkv: Linear,
        out: Linear,
        mlp: Mlp,
        positions: Positions | None = None,
        bias_hqt: Tensor | Callable[[], Tensor] | None = None,
        inner: nn.Module | None = None,
    ) -> None:
        self.heads, self.head_dim, self.dtype, self.reading = heads, head_dim, dtype, reading
        self.norm_1, self.norm_2 = norms
        self.inner = None if inner is None or isinstance(inner, nn.Identity) else inner
        self._qkv, self._mlp, self._positions, self._bias_hqt = qkv, mlp, positions, bias_hqt
        self._out = out if self.inner is None else folded(self.inner, out)
        self._carried = reading.queries if last else None

    # Cast when first run: whoever asks for the weights alone needs no copies.

    @cached_property
    def qkv(self) -> Linear:
        return cast(self._qkv, self.dtype)

    @cached_property
    def out(self) -> Linear:
        return cast(self._out, self.dtype)

    @cached_property
    def _run_mlp(self) -> Mlp:
        return self._mlp.cast(self.dtype)

    @property
    def down(self) -> Linear:
        return self._run_mlp.down

    @property
    def mlp_bias(self) -> Tensor | None:
        return self.down[1]

    @property
    def placed(self) -> bool:
        """Whether attention takes all tokens in their places, none left out: by biases of its
        logits, or by what becomes of queries and keys before they meet."""
        return self._bias_hqt is not None or self._positions is not None

    @property
    def layers(self) -> Layers:
        mlp = self._run_mlp
        further = {
            "norms or rotations of queries and keys": self._positions,
            "biases of the attention's logits": self._bias_hqt,
            "a norm inside the attention": self.inner,
            "a gated MLP": None if isinstance(mlp, PlainMlp) else mlp,
            "a norm inside the MLP": mlp.norm if isinstance(mlp, PlainMlp) else None,
        }
        if not isinstance(mlp, PlainMlp) or any(part is not None for part in further.values()):
            named = " and ".join(name for name, part in further.items() if part is not None)
            raise UnsupportedModel(
                f"relevance is handed back through plain attention and plain MLPs, and the blocks "
                f"of this model have {named}: choose other methods"
            )
        return Layers(
            norm_1=self.norm_1,
            qkv=self.qkv,
            out=self.out,
            norm_2=self.norm_2,
            up=mlp.up,
            activation=mlp.activation,
            down=mlp.down,
        )

    @property
    def weights(self) -> Weights:
        (weight, bias), (out, out_bias), (down, down_bias) = self._qkv, self._out, self._mlp.down
        inner, none = self.heads * self.head_dim, isinstance(self.norm_1, nn.Identity)
        return Weights(
            norm=Norm.none(weight.shape[1]) if none else Norm.of(self.norm_1),
            value_hkd=float64(weight)[-inner:].reshape(self.heads, self.head_dim, -1),
            value_bias_hk=float64(bias)[-inner:].reshape(self.heads, self.head_dim),
            out_dhk=float64(out).reshape(-1, self.heads, self.head_dim),
            out_bias_d=float64(out_bias),
            down_dn=float64(down),
            down_bias_d=float64(down_bias),
        )

    def attention(self, x_btd: Tensor, normed_btd: Tensor | None = None) -> Attention:
        if normed_btd is None:
            normed_btd = normed(self.norm_1, x_btd, self.dtype)
        weight, bias = self.qkv
        if self._carried is None:
            queries, keys, values = self._split(F.linear(normed_btd, weight, bias))
        else:
            inner, few_btd = self.heads * self.head_dim, normed_btd[:, : self._carried]
            (queries,) = self._split(F.linear(few_btd, weight[:inner], bias[:inner]))
            keys, values = self._split(F.linear(normed_btd, weight[inner:], bias[inner:]))
        if self._positions is not None:
            queries, keys = self._positions(queries, keys)
        made = self._bias_hqt
        bias_hqt = made() if callable(made) else made
        if bias_hqt is not None:
            bias_hqt = bias_hqt[:, : queries.shape[2]].to(queries.dtype)
        return Attention(queries, keys, values, self.reading, bias_hqt, self.scale)

    @property
    def scale(self) -> Callable[[Tensor], Tensor] | None:
        """`Attention.scale`."""
        return None if self.inner is None else partial(inverse_std, self.inner)

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        return (
            projected.unflatten(-1, (-1, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        )

    def inverse_std(self, x_btd: Tensor) -> Tensor:
        return inverse_std(self.norm_1, x_btd)

    def attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        x_btd, out_btd, u_bd = self.attended(x_btd, attention)
        return x_btd.add_(out_btd), u_bd

    def attended(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
        """What the attention's output is to be added to, that output, and u."""
        mixed_btd = self._normed(mix(attention))
        x_btd = x_btd[:, : mixed_btd.shape[1]]
        return x_btd, F.linear(mixed_btd, *self.out), self.reading(mixed_btd)

    def _normed(self, mixed_bhqk: Tensor) -> Tensor:
        """All heads' output side by side, over the inner norm's σ."""
        mixed_bqd = mixed_bhqk.transpose(1, 2).flatten(2)
        if self.inner is None:
            return mixed_bqd
        return mixed_bqd * inverse_std(self.inner, mixed_bqd)[..., None]

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        mixed_bqd = self._normed(mixed_bhqk)
        return x_btd[:, : mixed_bqd.shape[1]] + F.linear(mixed_bqd, *self.out)

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        hidden_btn = self._run_mlp.hidden(normed(self.norm_2, x_btd, self.dtype))
        return hidden_btn, F.linear(hidden_btn, *self.down)

    def rest(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Written:
        x_btd, u_bd, _, written_btd, normed_btd = self.neurons(x_btd, attention, behind)
        return Written(x_btd, u_bd, self.reading(written_btd), normed_btd=normed_btd)

    def neurons(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Neurons:
        # What is written is added and normed at once.
        x_btd, out_btd, u_bd = self.attended(x_btd, attention)
        hidden_btn = self._run_mlp.hidden(add_normed(self.norm_2, x_btd, out_btd, self.dtype))
        written_btd = F.linear(hidden_btn, *self.down)
        normed_btd = add_for(behind, x_btd, written_btd)
        return Neurons(x_btd, u_bd, hidden_btn, written_btd, normed_btd)


def add_for(behind: Block | None, x_btd: Tensor, written_btd: Tensor) -> Tensor | None:
    """Add to the stream, in place; it behind the first norm of the block that gets it next, if that
    is one of these."""
    if isinstance(behind, PreNormBlock):
        return add_normed(behind.norm_1, x_btd, written_btd, behind.dtype)
    x_btd.add_(written_btd)
    return None


def mix(attention: Attention) -> Tensor:
    """What heads gather for every query that there is, (batch, head, query, head_dim)."""
    bias_hqt = attention.bias_hqt
    # With an axis of images, without which PyTorch's fused kernels do not take it.
    bias_bhqt = None if bias_hqt is None else bias_hqt[None]
    return F.scaled_dot_product_attention(
        attention.queries, attention.keys, attention.values, attn_mask=bias_bhqt
    )


def embed_patches(images_bchw: Tensor, filters_dcyx: Tensor, dtype: torch.dtype) -> Tensor:
    """A convolution whose patches do not overlap, (batch, patch, width), row by row.

    It is a product, then, in the dtype of all others; cuDNN's convolution would round float32 to
    TF32.
    """
    patches = _patches(images_bchw.to(dtype), filters_dcyx.shape[2:])
    return F.linear(patches, filters_dcyx.flatten(1).to(dtype))


def _patches(images_bchw: Tensor, side: Sequence[int]) -> Tensor:
    """(batch, patch, 3 · height · width), in the order in which a convolution meets them."""
    b, c, height, width = images_bchw.shape
    down, across = height // side[0], width // side[1]
    cut = images_bchw[:, :, : down * side[0], : across * side[1]]
    cut = cut.reshape(b, c, down, side[0], across, side[1])
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, down * across, -1)
