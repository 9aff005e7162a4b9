"""What timm's ViTs have in common: how the stream is pooled, and what follows.

A trunk is the image tower of open_clip's `TimmModel`, which may have a projection of its own, or a
model by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.lean import timm

from . import openclip_tower, timm_alone, timm_mlps
from .norms import centred, inverse_std, linear_of
from .pool import PoolBlock, pool_faults
from .postnorm import norms_behind
from .prenorm import PreNormBlock, embed_patches
from .reading import ClassToken, Mean, PoolRow, Reading, WeighedMean
from .tower import Array, Block, Entrance, Left, Norm, Tail, float64, through

if TYPE_CHECKING:
    from .loading import VisionModel


def build(config: dict[str, Any]) -> Any:
    """open_clip's model with a tower of timm's, or an `ImageAlone`; random weights."""
    alone = "architecture" in config
    return timm_alone.build(config) if alone else openclip_tower.build(config)


def trunk_of(visual: nn.Module) -> Any:
    """timm's model in an image tower."""
    return getattr(visual, "trunk", visual)


def tail_faults(trunk: Any) -> list[str]:
    """What keeps the way behind the blocks from being a sum, in words."""
    found = []
    pool = getattr(trunk, "attn_pool", None)
    if pool is not None:
        found += pool_faults(pool)
    elif not trunk.global_pool:
        found.append("it gives all its tokens, and no pooling is chosen (global_pool)")
    elif trunk.global_pool not in ("token", "avg"):
        found.append(f"it pools by {trunk.global_pool!r}, which takes largest values: no sum")
    elif not isinstance(trunk.norm, nn.Identity) and not isinstance(trunk.fc_norm, nn.Identity):
        found.append("it norms its tokens before they are pooled, and again after")
    elif norms_behind(trunk) and reading_name(trunk) == "mean-of-normed":
        found.append("its blocks norm what they write, and its tail each token")
    if not isinstance(trunk.head, nn.Linear | nn.Identity):
        found.append(f"its head is no linear layer ({type(trunk.head).__name__})")
    return found + norm_faults(trunk.norm, trunk.fc_norm)


def norm_faults(*norms: nn.Module) -> list[str]:
    """Norms that are neither LayerNorm nor RMSNorm, in words."""
    rms = ("RmsNorm", "RmsNormFp32", "RMSNorm")
    other = {
        type(norm).__name__
        for norm in norms
        if not isinstance(norm, nn.LayerNorm | nn.Identity) and type(norm).__name__ not in rms
    }
    return [f"its norms are of another kind ({', '.join(sorted(other))})"] if other else []


def first_read(trunk: Any) -> int:
    """The first token that a mean is over, or that a pool looks at."""
    # An `Eva`, which has no such choice, lets pools look at all tokens, and leaves the prefix out
    # of means.
    whole = getattr(trunk, "pool_include_prefix", getattr(trunk, "attn_pool", None) is not None)
    return 0 if whole else trunk.num_prefix_tokens


def reading_name(trunk: Any) -> str:
    """How the stream is read: one of `storage.metadata.READINGS`."""
    if getattr(trunk, "attn_pool", None) is not None:
        return "attention-pool"
    if trunk.global_pool == "token":
        return "class-token"
    return "mean" if isinstance(trunk.norm, nn.Identity) else "mean-of-normed"


def read_sizes(trunk: Any) -> dict[str, Any]:
    """What `Sizes` says of heads and neurons: those of the pool where that is the only layer."""
    reading = reading_name(trunk)
    found = {
        "image_size": tuple(trunk.patch_embed.img_size),
        "grid": tuple(trunk.patch_embed.grid_size),
        "prefix": trunk.num_prefix_tokens,
        "width": trunk.embed_dim,
        "embed_dim": getattr(trunk.head, "out_features", trunk.embed_dim),
        "reading": reading,
        "varying_bias": reading == "mean-of-normed"
        or (norms_behind(trunk) and reading != "attention-pool"),
        "refined": ("pool_neurons",) if reading == "attention-pool" else (),
    }
    attention, mlp, layers = trunk.blocks[0].attn, trunk.blocks[0].mlp, len(trunk.blocks)
    if reading == "attention-pool":
        found["prefix"] -= first_read(trunk)
        found |= {"trunk_layers": layers, "trunk_mlp_width": timm_mlps.neurons(mlp)}
        attention, mlp, layers = trunk.attn_pool, trunk.attn_pool.mlp, 1
    return found | {
        "layers": layers,
        "heads": attention.num_heads,
        "head_dim": attention.proj.in_features // attention.num_heads,
        "mlp_width": timm_mlps.neurons(mlp),
        "activation": timm_mlps.activation(mlp),
    }


def make_norms_full(trunk: nn.Module) -> None:
    """Give norms without weights or biases ones and zeros, which is exact."""
    like = next(trunk.parameters())
    for norm in trunk.modules():
        shape = getattr(norm, "normalized_shape", None)
        if shape is None:
            continue
        if norm.weight is None:
            norm.weight = nn.Parameter(like.new_ones(shape))
        if isinstance(norm, nn.LayerNorm) and norm.bias is None:
            norm.bias = nn.Parameter(like.new_zeros(shape))


@torch.no_grad()
def fold_scale(scale: Tensor, projection: nn.Linear) -> None:
    """A LayerScale into the projection before it: s ⊙ (W x + b) = (diag(s) W) x + s ⊙ b."""
    projection.weight.mul_(scale[:, None])
    if projection.bias is not None:
        projection.bias.mul_(scale)


def in_one(linears: Sequence[nn.Linear], width: int) -> tuple[Array, Array]:
    """Linear layers one after another as one: (width, embed) and (embed,), float64."""
    projection_de, bias_e = np.eye(width), np.zeros(width)
    for weight, bias in map(linear_of, linears):
        weight_ed = float64(weight)
        projection_de, bias_e = projection_de @ weight_ed.T, weight_ed @ bias_e + float64(bias)
    return projection_de, bias_e


class TimmTower(Entrance):
    """A trunk, block by block; families say what its blocks are.

    The residual stream, the norms and what comes after the last block stay in float32 (float64).
    """

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual = model, model.visual
        self._trunk = trunk = trunk_of(model.visual)
        name, first = reading_name(trunk), first_read(trunk)
        self.late = name == "mean-of-normed"
        self._weighed = WeighedMean(first)
        others: dict[str, Reading] = {
            "class-token": ClassToken(),
            "mean": Mean(first),
            "attention-pool": PoolRow(trunk.embed_dim),
        }
        self.read: Reading = self._weighed if self.late else others[name]
        self._norm = trunk.fc_norm
        if isinstance(self.read, PoolRow):
            self.trunk = self._blocks(last=False)
            self.blocks: Sequence[Block] = [
                PoolBlock(trunk.attn_pool, trunk.norm, model.dtype, self.read)
            ]
        else:
            self.blocks = self._blocks(last=True)
            if isinstance(self._norm, nn.Identity):
                self._norm = trunk.norm

    @abstractmethod
    def _blocks(self, last: bool) -> Sequence[PreNormBlock]:
        """The trunk's own; `last`: whether nothing but the tail comes behind them."""

    @property
    def tail(self) -> Tail:
        norm, width = self._norm, self._model.width
        projection_de, bias_e = in_one(self._projections(), width)
        held = Norm.none(width) if isinstance(norm, nn.Identity) else Norm.of(norm)
        return Tail(held, projection_de, bias_e)

    def _projections(self) -> list[nn.Linear]:
        """What is done behind the last norm: the trunk's own, then open_clip's."""
        found = [self._trunk.head]
        if self._trunk is not self._visual:
            found += self._visual.head
        return [layer for layer in found if isinstance(layer, nn.Linear)]

    def stem(self, images_bchw: Tensor) -> Tensor:
        self.read.forget()
        x_btd, positions_td = self.embed(images_bchw)
        embedded: Tensor = getattr(self._trunk, "norm_pre", nn.Identity())(x_btd.add_(positions_td))
        return embedded

    def hand_over(self, values_bt: Tensor) -> Tensor:
        return values_bt[:, first_read(self._trunk) :] if self.trunk else values_bt

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        self._model.refuse_other_images(images_bchw)
        trunk, embed = self._trunk, self._trunk.patch_embed
        images = images_bchw.to(**self._model.wide)
        if type(embed) is timm.layers.PatchEmbed:
            x_bpd = embed_patches(images, embed.proj.weight, self._model.dtype).to(images.dtype)
            if embed.proj.bias is not None:
                x_bpd += embed.proj.bias
            x_bpd = embed.norm(x_bpd)
        else:  # a stem of convolutions
            x_bpd = embed(images)
            if x_bpd.ndim == 4:  # rows, columns, width
                x_bpd = x_bpd.flatten(1, 2)
        tokens = (getattr(trunk, name, None) for name in ("cls_token", "reg_token"))
        prefix = [token.expand(len(x_bpd), -1, -1) for token in tokens if token is not None]
        x_btd = torch.cat([*prefix, x_bpd], 1) if prefix else x_bpd
        positions_td = x_btd.new_zeros(x_btd.shape[1:])
        if getattr(trunk, "pos_embed", None) is not None:
            # Of the patches alone, or of the prefix, too.
            positions_td[-trunk.pos_embed.shape[1] :] = trunk.pos_embed[0]
        return x_btd, positions_td

    def enter(self, images_bchw: Tensor) -> Tensor:
        entering_btd = self.start(images_bchw)
        if self.late:
            x_btd = through(self.blocks, entering_btd.clone())
            self._weighed.weigh(inverse_std(self._norm, x_btd))
        return entering_btd

    def leave(self, x_btd: Tensor) -> Left:
        norm, weight_b = self._norm, None
        if self.late:
            weight_b = self._weighed.weigh(inverse_std(norm, x_btd))
            normed_bd = norm(x_btd[:, self._weighed.first :]).mean(1)
            read_bd = self.read(x_btd)
            std_b = torch.ones_like(weight_b)
        else:
            read_bd = self.read(x_btd)
            normed_bd, std_b = norm(read_bd), 1 / inverse_std(norm, read_bd)
        for linear in self._projections():
            normed_bd = linear(normed_bd)
        mean_b = read_bd.mean(-1) if centred(norm) else torch.zeros_like(std_b)
        return Left(normed_bd, mean_b, std_b, weight_b)
