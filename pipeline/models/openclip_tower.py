"""OpenCLIP's own ViT as a module: built, made ready, and run block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.lean import open_clip

from .mlps import PlainMlp
from .norms import inverse_std, linear_of
from .prenorm import PreNormBlock, embed_patches
from .reading import ClassToken, Mean, Reading, WeighedMean
from .tower import Block, Entrance, Left, Norm, Tail, float64, through

if TYPE_CHECKING:
    from .loading import VisionModel


def build(config: dict[str, Any]) -> Any:
    """An `open_clip.CLIP` or `open_clip.CustomTextCLIP`, random weights."""
    config = deepcopy(config)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return kind(**config)


def prepare(module: Any) -> None:
    """Fold LayerScale into the projections before it, and scales of heads into their values; give
    LayerNorms without weights or biases ones and zeros. All that is exact."""
    for block in module.visual.transformer.resblocks:
        if (scale := getattr(block.attn, "head_scale", None)) is not None:
            with torch.no_grad():  # Σ α_i (s v_i) = s Σ α_i v_i
                width = len(block.attn.out_proj.weight)
                values = (block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:])
                for part in values:
                    part.view(len(scale), -1).mul_(scale[:, 0])
            block.attn.head_scale = None
        for name, projection in (("ls_1", block.attn.out_proj), ("ls_2", block.mlp.c_proj)):
            scale = getattr(block, name)
            if not isinstance(scale, nn.Identity):
                # ls(W x + b) = (diag(s) W) x + s ⊙ b, so that blocks write what projections give.
                with torch.no_grad():
                    projection.weight.mul_(scale.gamma[:, None])
                    projection.bias.mul_(scale.gamma)
                setattr(block, name, nn.Identity())
    for norm in module.visual.modules():
        if isinstance(norm, nn.LayerNorm):
            like = module.visual.proj.new_ones(norm.normalized_shape)
            if norm.weight is None:
                norm.weight = nn.Parameter(like)
            if norm.bias is None:
                norm.bias = nn.Parameter(torch.zeros_like(like))
    module.visual.output_tokens = False  # encode_image must give the embedding alone


def block_of(block: Any, dtype: torch.dtype, last: bool, read: Reading) -> PreNormBlock:
    """One of open_clip's own blocks, of either class, made ready."""
    attn, mlp = block.attn, block.mlp
    heads, width = attn.num_heads, len(attn.out_proj.weight)
    normed = not isinstance(getattr(attn, "ln_q", None), nn.Identity | None)

    def positions(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        wide = attn.ln_q.weight.dtype
        return attn.ln_q(queries.to(wide)).to(dtype), attn.ln_k(keys.to(wide)).to(dtype)

    return PreNormBlock(
        heads=heads,
        head_dim=width // heads,
        dtype=dtype,
        last=last,
        reading=read,
        norms=(block.ln_1, block.ln_2),
        qkv=(attn.in_proj_weight, attn.in_proj_bias),
        out=linear_of(attn.out_proj),
        mlp=PlainMlp(
            linear_of(mlp.c_fc), mlp.gelu, linear_of(mlp.c_proj), getattr(mlp, "ln", None)
        ),
        positions=positions if normed else None,
        inner=getattr(attn, "ln_inner", None),
    )


READINGS: dict[str, Callable[[], Reading]] = {
    "class-token": ClassToken,
    "mean": lambda: Mean(1),
    "mean-of-normed": lambda: WeighedMean(1),
}


class OpenClipTower(Entrance):
    """An `open_clip.transformer.VisionTransformer`, block by block.

    The residual stream, the LayerNorms and what comes after the last block stay in float32
    (float64).
    """

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual = model, model.visual
        self.read: Reading = READINGS[model.reading]()
        resblocks = self._visual.transformer.resblocks
        self.blocks: Sequence[Block] = [
            block_of(block, model.dtype, block is resblocks[-1], self.read) for block in resblocks
        ]

    @property
    def tail(self) -> Tail:
        return Tail(Norm.of(self._visual.ln_post), float64(self._visual.proj))

    @property
    def late(self) -> bool:
        return isinstance(self.read, WeighedMean)

    def stem(self, images_bchw: Tensor) -> Tensor:
        if isinstance(self.read, WeighedMean):
            self.read.forget()
        x_btd, positions_td = self.embed(images_bchw)
        embedded: Tensor = self._visual.ln_pre(x_btd.add_(positions_td))
        return embedded

    def enter(self, images_bchw: Tensor) -> Tensor:
        x_btd = self.start(images_bchw)
        if not isinstance(self.read, WeighedMean):
            return x_btd
        entered_btd = x_btd.clone()
        with torch.no_grad():
            self.leave(through(self.blocks, x_btd))
        return entered_btd

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        model, visual = self._model, self._visual
        model.refuse_other_images(images_bchw)
        filters = visual.conv1.weight
        images = images_bchw.to(filters.device, filters.dtype)
        x_btd = images.new_empty(len(images), model.tokens, len(filters))
        x_btd[:, 0] = visual.class_embedding
        x_btd[:, 1:] = embed_patches(images, filters, model.dtype)
        return x_btd, visual.positional_embedding

    def leave(self, x_btd: Tensor) -> Left:
        norm, weight_b = self._visual.ln_post, None
        if isinstance(self.read, WeighedMean):
            weight_b = self.read.weigh(inverse_std(norm, x_btd))
            embedding_be = norm(x_btd[:, 1:]).mean(1) @ self._visual.proj
            mean_b = self.read(x_btd).mean(-1)
            return Left(embedding_be, mean_b, torch.ones_like(mean_b), weight_b)
        normed_bd, mean, one_over_std = torch.native_layer_norm(
            self.read(x_btd), norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )
        return Left(normed_bd @ self._visual.proj, mean[:, 0], 1 / one_over_std[:, 0])
