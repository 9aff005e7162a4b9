"""timm's `Beit` as a module: looked at, made ready, and run block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from . import timm_mlps
from .eva_tower import fold_blocks
from .family import Sizes
from .norms import linear_of
from .prenorm import PreNormBlock
from .timm_trunk import TimmTower, norm_faults, read_sizes, tail_faults, trunk_of


def examine(trunk: Any) -> list[str]:
    """What keeps a trunk from being taken apart, in words; it may be on ``meta``."""
    for block in trunk.blocks:
        found = timm_mlps.mlp_faults(block.mlp)
        found += norm_faults(block.norm1, block.norm2, getattr(block.mlp, "norm", nn.Identity()))
        if found:
            return found
    return tail_faults(trunk)


def measure(trunk: Any) -> Sizes:
    """Sizes of a trunk without faults; it may be on ``meta``."""
    return Sizes(**read_sizes(trunk))


def prepare(module: Any) -> None:
    """Have one layer make queries, keys and values; fold LayerScale, and norms inside MLPs, into
    the projections beside them. All that is exact."""
    fold_blocks(trunk_of(module.visual))


class BeitTower(TimmTower):
    """A `Beit`, block by block."""

    def _blocks(self, last: bool) -> Sequence[PreNormBlock]:
        trunk = self._trunk
        return [
            PreNormBlock(
                heads=self._model.heads,
                head_dim=self._model.head_dim,
                dtype=self._model.dtype,
                last=last and block is trunk.blocks[-1],
                reading=self.read,
                norms=(block.norm1, block.norm2),
                qkv=linear_of(block.attn.qkv),
                out=linear_of(block.attn.proj),
                mlp=timm_mlps.mlp_of(block.mlp),
                bias_hqt=_bias(trunk, block.attn),
            )
            for block in trunk.blocks
        ]


def _bias(trunk: Any, attention: Any) -> partial[Tensor] | None:
    """What relative positions add to a layer's logits; made when it runs, as it is tokens²."""
    tables = [] if trunk.rel_pos_bias is None else [trunk.rel_pos_bias]
    if attention.relative_position_bias_table is not None:
        tables.append(attention._get_rel_pos_bias)
    return partial(_sum, tables) if tables else None


def _sum(tables: Sequence[Any]) -> Tensor:
    """(head, token, token); some have a batch axis."""
    first, *more = (made.reshape(-1, *made.shape[-2:]) for made in (table() for table in tables))
    return first + more[0] if more else first
