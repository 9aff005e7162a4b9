"""Attention pools that write one row: the only block of their towers, and it has no MLP.

A query, learned or made of the tokens, looks at the tokens; what heads gather is projected, and
that row is the block's stream behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UnsupportedModel
from .mlps import cast
from .norms import Linear, inverse_std
from .reading import PoolRow
from .tower import Attention, Block, Layers, Neurons, Norm, Weights, Written, float64, neurons


@dataclass(frozen=True, eq=False, kw_only=True)
class Projections:
    """Weight and bias of what a pool multiplies by: rows are heads · head_dim, but of `out`, whose
    rows are the width that is written."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear


class QueryPool:
    """W_O·attention(query; norm(tokens)) + b_O.

    Parameters
    ----------
    heads : int
    dtype : torch.dtype
        Of matrix products; norms stay as they are.
    reading : PoolRow
    norm : nn.Module
        Of the tokens, before keys and values; nn.Identity where there is none.
    query : callable
        From the normed tokens, (batch, token, width), what queries are made of,
        (batch or 1, 1, width).
    projections : Projections
    """

    def __init__(
        self,
        *,
        heads: int,
        dtype: torch.dtype,
        reading: PoolRow,
        norm: nn.Module,
        query: Callable[[Tensor], Tensor],
        projections: Projections,
    ) -> None:
        self.heads, self.dtype, self.reading, self.norm_1 = heads, dtype, reading, norm
        self._query, self._projections = query, projections

    @cached_property
    def _cast(self) -> Projections:
        given = self._projections
        return Projections(
            query=cast(given.query, self.dtype),
            key=cast(given.key, self.dtype),
            value=cast(given.value, self.dtype),
            out=cast(given.out, self.dtype),
        )

    @property
    def down(self) -> Linear:
        weight, bias = self._cast.out
        return weight.new_zeros(len(weight), 0), torch.zeros_like(bias)

    @property
    def mlp_bias(self) -> Tensor:
        return self.down[1]

    @property
    def layers(self) -> Layers:
        raise UnsupportedModel(
            "relevance is handed back through blocks that add to what they look at, and this "
            "model's only layer is an attention pool: choose other methods"
        )

    @property
    def weights(self) -> Weights:
        (value, value_bias), (out, out_bias) = self._projections.value, self._projections.out
        none = isinstance(self.norm_1, nn.Identity)
        return Weights(
            norm=Norm.none(value.shape[1]) if none else Norm.of(self.norm_1),
            value_hkd=float64(value).reshape(self.heads, -1, value.shape[1]),
            value_bias_hk=float64(value_bias).reshape(self.heads, -1),
            out_dhk=float64(out).reshape(len(out), self.heads, -1),
            out_bias_d=float64(out_bias),
            down_dn=float64(out)[:, :0],
            down_bias_d=float64(torch.zeros_like(out_bias)),
        )

    def attention(self, x_btd: Tensor, normed_btd: Tensor | None = None) -> Attention:
        normed_btd = self.norm_1(x_btd)
        query_b1d, tokens_btd = self._query(normed_btd), normed_btd.to(self.dtype)
        queries, keys, values = (
            self._split(F.linear(x, *linear))
            for x, linear in (
                (query_b1d.to(self.dtype), self._cast.query),
                (tokens_btd, self._cast.key),
                (tokens_btd, self._cast.value),
            )
        )
        return Attention(queries.expand(len(x_btd), -1, -1, -1), keys, values, self.reading)

    def _split(self, projected: Tensor) -> Tensor:
        """(…, token, heads · head_dim) as (…, head, token, head_dim)."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def inverse_std(self, x_btd: Tensor) -> Tensor:
        return inverse_std(self.norm_1, x_btd)

    def gather(self, attention: Attention) -> Tensor:
        """Σ α_i v_i, (batch, head, query, head_dim)."""
        return F.scaled_dot_product_attention(attention.queries, attention.keys, attention.values)

    def attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        mixed_bhqk = self.gather(attention)
        return self.write(x_btd, mixed_bhqk), mixed_bhqk.transpose(1, 2).flatten(2)[:, 0]

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        written_bqd = F.linear(mixed_bhqk.transpose(1, 2).flatten(2), *self._cast.out)
        return written_bqd.to(x_btd.dtype)

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        return x_btd[..., :0].to(self.dtype), torch.zeros_like(x_btd, dtype=self.dtype)

    def rest(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Written:
        x_btd, u_bd = self.attend(x_btd, attention)
        return Written(x_btd, u_bd, torch.zeros_like(x_btd[:, 0]))

    def neurons(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Neurons:
        return neurons(self, x_btd, attention)
