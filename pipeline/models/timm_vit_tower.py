"""timm's ViT as a module: looked at, made ready, and run block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.lean import timm

from . import timm_mlps
from .family import Sizes
from .norms import linear_of
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

vit, relative = timm.models.vision_transformer, timm.models.vision_transformer_relpos
BLOCKS = (vit.Block, vit.ResPostBlock, relative.RelPosBlock, relative.ResPostRelPosBlock)
# What of timm's classes is no sum, and why.
REFUSED = {
    "VisionTransformerDistilled": "it reads two tokens, each through a projection of its own",
    "ParallelScalingBlock": "its blocks run attention and MLP side by side",
    "DiffParallelScalingBlock": "its blocks run attention and MLP side by side",
    "ParallelThingsBlock": "its blocks run several attentions and MLPs side by side",
    "DiffAttention": "its heads are differences of two attentions, each normed for itself",
}


def examine(trunk: Any) -> list[str]:
    """What keeps a model of timm's from being taken apart, in words; it may be on ``meta``."""
    found = _unknown(trunk, (vit.VisionTransformer, relative.VisionTransformerRelPos), "its class")
    if found:
        return found
    for block in trunk.blocks:
        if faults := _unknown(block, BLOCKS, "its blocks"):
            return faults
        attention = block.attn
        kinds = (timm.layers.Attention, relative.RelPosAttention)
        found += _unknown(attention, kinds, "its attention")
        if getattr(attention, "gate", None) is not None:
            found.append("its attention is gated")
        found += timm_mlps.mlp_faults(block.mlp)
        inner = getattr(attention, "norm", nn.Identity())
        found += norm_faults(block.norm1, block.norm2, inner)
        if found:
            return found
    embed = trunk.patch_embed
    if not getattr(embed, "grid_size", None):
        found.append("it takes pictures of any size")
    elif getattr(embed, "dynamic_img_pad", False):
        found.append("it pads pictures")
    return found + tail_faults(trunk)


def _unknown(module: nn.Module, known: tuple[type, ...], what: str) -> list[str]:
    if type(module) in known:
        return []
    name = type(module).__name__
    return [REFUSED.get(name, f"{what} is of a kind that is not known here ({name})")]


def measure(trunk: Any) -> Sizes:
    """Sizes of a model without faults; it may be on ``meta``."""
    return Sizes(**read_sizes(trunk))


def prepare(module: Any) -> None:
    """Fold LayerScale into the projections before it; give norms without weights ones."""
    trunk = trunk_of(module.visual)
    for block in trunk.blocks:
        for name, projection in (
            ("ls1", block.attn.proj),
            ("ls2", timm_mlps.projection(block.mlp)),
        ):
            scale = getattr(block, name, nn.Identity())
            if not isinstance(scale, nn.Identity):
                fold_scale(scale.gamma, projection)
                setattr(block, name, nn.Identity())
    make_norms_full(trunk)


class TimmVitTower(TimmTower):
    """A `VisionTransformer` or `VisionTransformerRelPos` of timm's, block by block."""

    def _blocks(self, last: bool) -> Sequence[PreNormBlock]:
        model, trunk = self._model, self._trunk
        shared = _bias(getattr(trunk, "shared_rel_pos", None))
        kind = PostNormBlock if norms_behind(trunk) else PreNormBlock
        return [
            kind(
                heads=block.attn.num_heads,
                head_dim=block.attn.head_dim,
                dtype=model.dtype,
                last=last and block is trunk.blocks[-1],
                reading=self.read,
                norms=(block.norm1, timm_mlps.norm_before(block.norm2, block.mlp)),
                qkv=linear_of(block.attn.qkv),
                out=linear_of(block.attn.proj),
                mlp=timm_mlps.mlp_of(block.mlp),
                positions=_normed(block.attn),
                bias_hqt=shared if shared is not None else _bias(_own(block.attn, "rel_pos")),
                inner=_own(block.attn, "norm"),
            )
            for block in trunk.blocks
        ]


def _own(attention: nn.Module, name: str) -> nn.Module | None:
    found: nn.Module | None = getattr(attention, name, None)
    return found


def _normed(attention: Any) -> Positions | None:
    """Norms of queries and keys."""
    if isinstance(attention.q_norm, nn.Identity) and isinstance(attention.k_norm, nn.Identity):
        return None

    def norm(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        # In the norms' own dtype, and back.
        wide = next(attention.parameters()).dtype
        q, k = attention.q_norm(queries.to(wide)), attention.k_norm(keys.to(wide))
        return q.to(queries.dtype), k.to(keys.dtype)

    return norm


def _bias(positions: Any) -> Tensor | None:
    """What relative positions add to logits, (head, token, token): the same for all images."""
    if positions is None:
        return None
    bias: Tensor = positions.get_bias().detach()
    return bias.reshape(-1, *bias.shape[-2:])
