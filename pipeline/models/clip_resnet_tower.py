"""CLIP's ResNet as a tower of one layer, its attention pool; each head told channel by channel.

Tokens of the pool are the mean of all pixels, then the pixels, each with its position. The mean is
a sum of pixels, too: the weight α_0 that heads give it is handed back to the T pixels, α_0/T each.
So a pixel's row is all that is written of it, and the first row holds what no pixel wrote: the
positions, and the values' bias.

    u = Σ_t (α_t + α_0/T) W_V x_t  +  Σ_t α_t W_V p_t + b_V

Of the first sum each channel c of a head is a number times a direction that the weights fix:
Σ_t (α_t + α_0/T) x_{t,c} times column c of the head's W_V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .narrow import narrow
from .norms import linear_of
from .query_pool import Projections, QueryPool
from .reading import PoolRow
from .tower import Attention, Entrance, Left, Norm, Tail

if TYPE_CHECKING:
    from .loading import VisionModel


@dataclass(frozen=True, eq=False, kw_only=True)
class PixelAttention(Attention):
    """Attention whose values are those of pixels, and in the first row what no pixel wrote."""

    weights_bht: Tensor
    """What counts of each value: 1 of the first row, then α_t + α_0/T."""

    def _patterns(self, queries: int | None) -> Tensor:
        return self.weights_bht[:, :, None]


class PixelPool(QueryPool):
    """The pool of CLIP's ResNets; its stream is the mean pixel and the pixels, without positions.

    Parameters
    ----------
    pool : nn.Module
        An `AttentionPool2d`.
    dtype : torch.dtype
    reading : PoolRow
    """

    def __init__(self, pool: Any, dtype: torch.dtype, reading: PoolRow) -> None:
        super().__init__(
            heads=pool.num_heads,
            dtype=dtype,
            reading=reading,
            norm=nn.Identity(),
            query=lambda x_btd: x_btd[:, :1],
            projections=Projections(
                query=linear_of(pool.q_proj),
                key=linear_of(pool.k_proj),
                value=linear_of(pool.v_proj),
                out=linear_of(pool.c_proj),
            ),
        )
        self._positions_td: Tensor = pool.positional_embedding

    def attention(self, x_btd: Tensor, normed_btd: Tensor | None = None) -> PixelAttention:
        placed = super().attention(x_btd + self._positions_td)
        weight, bias = self._cast.value
        alpha_bht = placed.patterns()[:, :, 0]
        values = self._split(F.linear(x_btd.to(self.dtype), weight))
        by_position_hti = self._split(F.linear(self._positions_td.to(self.dtype), weight))
        fixed_bhi = torch.einsum("bht,hti->bhi", alpha_bht, by_position_hti)
        values[:, :, 0] = fixed_bhi + bias.unflatten(0, (self.heads, -1))
        first_bh1 = alpha_bht[..., :1]
        pixels_bht = alpha_bht[..., 1:] + first_bh1 / (alpha_bht.shape[-1] - 1)
        weights_bht = torch.cat([torch.ones_like(first_bh1), pixels_bht], -1)
        channels_btc = torch.cat([torch.zeros_like(x_btd[:, :1]), x_btd[:, 1:]], 1)
        return PixelAttention(
            placed.queries, placed.keys, values, self.reading,
            channels_btc=channels_btc, weights_bht=weights_bht,
        )  # fmt: skip

    def gather(self, attention: Attention) -> Tensor:
        return attention.patterns() @ attention.values


class ClipResnetTower(Entrance):
    """An `open_clip.modified_resnet.ModifiedResNet`: all before the pool is how it is entered.

    Convolutions run as the library runs them, in the model's dtype under autocast where that is
    narrower than float32.
    """

    late = False

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual, self.read = model, model.visual, PoolRow(model.width)
        self.blocks = [PixelPool(model.visual.attnpool, model.dtype, self.read)]

    @property
    def tail(self) -> Tail:
        width = self._model.width
        return Tail(Norm.none(width), np.eye(width))

    def stem(self, images_bchw: Tensor) -> Tensor:
        return self.embed(images_bchw)[0]

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        model, visual = self._model, self._visual
        model.refuse_other_images(images_bchw)
        with narrow(model):
            x = visual.stem(images_bchw.to(**model.wide))
            for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                x = stage(x)
        pixels_btd = x.to(model.wide["dtype"]).flatten(2).transpose(1, 2)
        tokens_btd = torch.cat([pixels_btd.mean(1, keepdim=True), pixels_btd], 1)
        return tokens_btd, visual.attnpool.positional_embedding

    def leave(self, x_btd: Tensor) -> Left:
        embedding_be = self.read(x_btd)
        zeros_b = torch.zeros_like(embedding_be[:, 0])
        return Left(embedding_be, zeros_b, zeros_b + 1)
