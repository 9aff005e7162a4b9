"""timm's attention pool of one learned query as a block: SigLIP, PE-core.

Heads gather from the tokens what they write to a row that was nothing before; an MLP adds to it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.lean import timm

from .errors import UnsupportedModel
from .norms import linear_of, normed
from .prenorm import PreNormBlock
from .reading import PoolRow
from .timm_mlps import mlp_faults, mlp_of
from .tower import Attention, Layers


def pool_faults(pool: Any) -> list[str]:
    """What keeps a pool from being a sum of heads and neurons, in words."""
    if type(pool) is not timm.layers.AttentionPoolLatent:
        return [f"it pools by an attention of another kind ({type(pool).__name__})"]
    found = []
    if pool.latent_len != 1:
        found.append(f"its pool has {pool.latent_len} queries")
    if pool.pos_embed is not None:
        found.append("its pool has positions of its own")
    if pool.mlp is None:
        return [*found, "its pool has no projection"]
    if pool.proj.weight.shape[0] != pool.kv.weight.shape[1]:
        found.append("its pool changes the width")
    return found + mlp_faults(pool.mlp)


class PoolBlock(PreNormBlock):
    """y = W_O·attention(latent; norm(tokens)) + b_O, then y + MLP(norm_2(y)).

    Parameters
    ----------
    pool : AttentionPoolLatent
        Without `pool_faults`.
    norm : nn.Module
        Of the tokens, before keys and values: the last of the trunk.
    dtype : torch.dtype
        As of `PreNormBlock`.
    reading : PoolRow
    """

    def __init__(self, pool: Any, norm: nn.Module, dtype: torch.dtype, reading: PoolRow) -> None:
        super().__init__(
            heads=pool.num_heads,
            head_dim=pool.head_dim,
            dtype=dtype,
            last=True,
            reading=reading,
            norms=(norm, pool.norm),
            qkv=linear_of(pool.kv),
            out=linear_of(pool.proj),
            mlp=mlp_of(pool.mlp),
        )
        self._pool = pool

    @property
    def layers(self) -> Layers:
        raise UnsupportedModel(
            "relevance is handed back through blocks that add to what they look at, and this "
            "model's only layer is an attention pool: choose other methods"
        )

    def attention(self, x_btd: Tensor, normed_btd: Tensor | None = None) -> Attention:
        pool = self._pool
        if normed_btd is None:
            normed_btd = normed(self.norm_1, x_btd, self.dtype)
        keys, values = self._split(F.linear(normed_btd, *self.qkv))
        (queries,) = self._split(pool.q(pool.latent))
        queries, keys = pool.q_norm(queries), pool.k_norm(keys)
        queries = queries.to(self.dtype).expand(len(x_btd), -1, -1, -1)
        return Attention(queries, keys.to(self.dtype), values, self.reading)

    def attended(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
        nothing_b1d = x_btd.new_zeros(len(x_btd), 1, len(self.out[0]))
        return super().attended(nothing_b1d, attention)

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        written_bqd = F.linear(mixed_bhqk.transpose(1, 2).flatten(2), *self.out)
        return written_bqd.to(x_btd.dtype)
