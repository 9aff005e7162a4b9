"""timm's `Eva` as a module: looked at, made ready, and run block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lean import timm

from . import timm_mlps
from .family import Sizes
from .norms import fold_behind, linear_of
from .postnorm import PostNormBlock, norms_behind
from .prenorm import Positions, PreNormBlock
from .timm_trunk import (
    TimmTower,
    fold_scale,
    make_norms_full,
    norm_faults,
    read_sizes,
    tail_faults,
    trunk_of,
)

# -- what a trunk says of itself -----------------------------------------------------------


def examine(trunk: Any) -> list[str]:
    """What keeps a trunk from being taken apart, in words; it may be on ``meta``."""
    found: list[str] = []
    for block in trunk.blocks:
        if block.attn.gate is not None:
            found.append(
                "its attention is gated: what a head gathers is scaled number by number at its "
                "query, and is no weighted sum of values"
            )
        found += timm_mlps.mlp_faults(block.mlp)
        found += norm_faults(block.norm1, block.norm2, block.attn.norm, block.mlp.norm)
        if found:
            return found
    if trunk.patch_embed.dynamic_img_pad:
        found.append("it pads pictures")
    return found + tail_faults(trunk)


def measure(trunk: Any) -> Sizes:
    """Sizes of a trunk without faults; it may be on ``meta``."""
    return Sizes(**read_sizes(trunk))


# -- made ready ----------------------------------------------------------------------------


def prepare(module: Any) -> None:
    """Have one layer make queries, keys and values; fold LayerScale, and norms inside attention and
    MLP, into the projections beside them. All that is exact."""
    trunk = trunk_of(module.visual)
    for block in trunk.blocks:
        block.attn.norm = fold_behind(block.attn.norm, block.attn.proj)
    fold_blocks(trunk)


def fold_blocks(trunk: Any) -> None:
    """`prepare` where no norm is inside the attention."""
    make_norms_full(trunk)
    for block in trunk.blocks:
        fuse(block.attn)
        down = timm_mlps.projection(block.mlp)
        block.mlp.norm = fold_behind(block.mlp.norm, down)
        for name, projection in (("gamma_1", block.attn.proj), ("gamma_2", down)):
            if getattr(block, name, None) is not None:
                fold_scale(getattr(block, name), projection)
                setattr(block, name, None)


@torch.no_grad()
def fuse(attention: Any) -> None:
    """Have one layer make queries, keys and values; heads that share keys get each their own."""
    if attention.qkv is None:
        parts = [linear_of(getattr(attention, f"{name}_proj")) for name in "qkv"]
        groups = getattr(attention, "num_kv_groups", 1)
        if groups > 1:
            parts[1:] = [_repeated(part, attention.head_dim, groups) for part in parts[1:]]
            attention.num_kv_groups, attention.num_kv_heads = 1, attention.num_heads
        weight, bias = (torch.cat(rows) for rows in zip(*parts, strict=True))
        attention.q_proj = attention.k_proj = attention.v_proj = None
    elif getattr(attention, "q_bias", None) is not None:
        weight = attention.qkv.weight
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        attention.q_bias = attention.k_bias = attention.v_bias = None
    else:
        return
    attention.qkv = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    attention.qkv.weight = nn.Parameter(weight, requires_grad=False)
    attention.qkv.bias = nn.Parameter(bias, requires_grad=False)


def _repeated(linear: tuple[Tensor, Tensor], head_dim: int, groups: int) -> tuple[Tensor, Tensor]:
    """Every head's rows once for each of the queries' heads that use it."""
    weight, bias = (
        rows.unflatten(0, (-1, head_dim)).repeat_interleave(groups, 0).flatten(0, 1)
        for rows in linear
    )
    return weight, bias


# -- to be run -----------------------------------------------------------------------------


class EvaTower(TimmTower):
    """An `Eva`, block by block."""

    def _blocks(self, last: bool) -> Sequence[PreNormBlock]:
        trunk, rotations = self._trunk, rotations_of(self._trunk)
        kind = PostNormBlock if norms_behind(trunk) else PreNormBlock
        return [
            kind(
                heads=block.attn.num_heads,
                head_dim=block.attn.head_dim,
                dtype=self._model.dtype,
                last=last and block is trunk.blocks[-1],
                reading=self.read,
                norms=(block.norm1, block.norm2),
                qkv=linear_of(block.attn.qkv),
                out=linear_of(block.attn.proj),
                mlp=timm_mlps.mlp_of(block.mlp),
                positions=positions_of(block.attn, rotations, layer),
                inner=block.attn.norm,
            )
            for layer, block in enumerate(trunk.blocks)
        ]


def rotations_of(trunk: Any) -> Tensor | None:
    """Sines and cosines by which queries and keys are turned, (token, 2 · head_dim), or with axes
    for layers and heads before these; None where nothing is turned.

    Tokens of the prefix are turned by nothing: a sine of 0 and a cosine of 1.
    """
    rope = trunk.rope
    if rope is None:
        return None
    if trunk.dynamic_img_size or not hasattr(rope, "feat_shape"):
        turned = rope.get_embed(shape=list(trunk.patch_embed.grid_size))
    else:
        turned = rope.get_embed()
    still = turned.new_zeros(*turned.shape[:-2], trunk.num_prefix_tokens, turned.shape[-1])
    still[..., turned.shape[-1] // 2 :] = 1
    return torch.cat([still, turned.detach()], -2)


def positions_of(attention: Any, rotations: Tensor | None, layer: int) -> Positions | None:
    """What an attention does to queries and keys before they meet."""
    plain = isinstance(attention.q_norm, nn.Identity)
    if rotations is None and plain:
        return None
    if rotations is not None and rotations.ndim > 2:
        rotations = rotations[layer]
    wide = next(attention.parameters()).dtype

    def placed(norm: nn.Module, x_bhtk: Tensor) -> Tensor:
        if not plain:  # in the norm's own dtype, and back
            x_bhtk = norm(x_bhtk.to(wide)).to(x_bhtk.dtype)
        if rotations is None:
            return x_bhtk
        turned_bhtk: Tensor = timm.layers.apply_rot_embed_cat(
            x_bhtk, rotations[..., : x_bhtk.shape[2], :], half=attention.rotate_half
        )
        return turned_bhtk

    return lambda queries, keys: (
        placed(attention.q_norm, queries),
        placed(attention.k_norm, keys),
    )
