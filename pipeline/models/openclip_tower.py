"""OpenCLIP's own ViT as a module: built, made ready, and run block by block."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.lean import open_clip

from .mlps import PlainMlp
from .prenorm import PreNormBlock, embed_patches
from .reading import ClassToken
from .tower import Left, Norm, Tail, float64

if TYPE_CHECKING:
    from .loading import VisionModel


def build(config: dict[str, Any]) -> Any:
    """An `open_clip.CLIP` or `open_clip.CustomTextCLIP`, random weights."""
    config = deepcopy(config)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return kind(**config)


def prepare(module: Any) -> None:
    """Fold LayerScale into the projections before it; give LayerNorms without weights or biases
    ones and zeros. Both are exact."""
    for block in module.visual.transformer.resblocks:
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


class OpenClipTower:
    """An `open_clip.transformer.VisionTransformer`, block by block.

    The residual stream, the LayerNorms and what comes after the last block stay in float32
    (float64).
    """

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual, self.read = model, model.visual, ClassToken()
        resblocks = self._visual.transformer.resblocks
        self.blocks: Sequence[PreNormBlock] = [
            PreNormBlock(
                heads=model.heads,
                head_dim=model.head_dim,
                dtype=model.dtype,
                last=block is resblocks[-1],
                reading=self.read,
                norms=(block.ln_1, block.ln_2),
                qkv=(block.attn.in_proj_weight, block.attn.in_proj_bias),
                out=(block.attn.out_proj.weight, block.attn.out_proj.bias),
                mlp=PlainMlp(
                    (block.mlp.c_fc.weight, block.mlp.c_fc.bias),
                    block.mlp.gelu,
                    (block.mlp.c_proj.weight, block.mlp.c_proj.bias),
                ),
            )
            for block in resblocks
        ]

    @property
    def tail(self) -> Tail:
        return Tail(Norm.of(self._visual.ln_post), float64(self._visual.proj))

    late = False

    def start(self, images_bchw: Tensor) -> Tensor:
        x_btd, positions_td = self.embed(images_bchw)
        embedded: Tensor = self._visual.ln_pre(x_btd.add_(positions_td))
        return embedded

    enter = start

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        model, visual = self._model, self._visual
        model.refuse_other_images(images_bchw)
        filters = visual.conv1.weight
        images = images_bchw.to(filters.device, filters.dtype)
        x_btd = images.new_empty(len(images), model.tokens, model.width)
        x_btd[:, 0] = visual.class_embedding
        x_btd[:, 1:] = embed_patches(images, filters)
        return x_btd, visual.positional_embedding

    def leave(self, x_btd: Tensor) -> Left:
        norm = self._visual.ln_post
        normed_bd, mean, inverse_std = torch.native_layer_norm(
            self.read(x_btd), norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )
        return Left(normed_bd @ self._visual.proj, mean[:, 0], 1 / inverse_std[:, 0])
