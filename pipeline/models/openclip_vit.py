"""OpenCLIP's own ViT with class-token pooling: OpenAI, OpenCLIP, MetaCLIP, DFN.

All that is known here of how `open_clip.transformer.VisionTransformer` is built stands in this
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.model import CLIPVisionCfg
from torch import Tensor, nn

from .prenorm import PreNormBlock, embed_patches
from .tower import Left, Norm, Sizes, Tail, float64

if TYPE_CHECKING:
    from .loading import VisionModel


# -- configurations ------------------------------------------------------------------------


def faults(config: dict[str, Any]) -> list[str]:
    """What keeps a model from being decomposed, in words; empty if nothing does."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if vision.get("timm_model_name"):
        return [f"its image tower is timm's {vision['timm_model_name']}"]
    if isinstance(vision.get("layers"), list | tuple):
        return ["its image tower is a ResNet"]
    found = []
    if "multimodal_cfg" in config:
        found.append("it is a CoCa")
    if vision.get("attentional_pool"):
        found.append("it pools by attention (attentional_pool)")
    if vision.get("pool_type", "tok") != "tok":
        found.append(f"it pools by {vision['pool_type']!r}, not by the class token")
    custom = ["block_type"] if vision.get("block_type", "default") not in (None, "default") else []
    custom += [
        key
        for key in ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner",
                    "scale_attn", "scale_fc")
        if vision.get(key)
    ]  # fmt: skip
    if custom:
        found.append(f"its blocks are custom ({', '.join(custom)})")
    if config.get("quick_gelu") and (vision.get("act_kwargs") or text.get("act_kwargs")):
        found.append("it runs QuickGELU, which takes no act_kwargs")
    if text.get("hf_model_name"):
        found.append(f"its text tower is Hugging Face's {text['hf_model_name']}")
    elif not found and _activation(config, "vision_cfg") != _activation(config, "text_cfg"):
        found.append(
            f"its towers differ in activation: {_activation(config, 'vision_cfg')} for images, "
            f"{_activation(config, 'text_cfg')} for texts"
        )
    return found + _size_faults(CLIPVisionCfg(**vision))


def _size_faults(vision: CLIPVisionCfg) -> list[str]:
    heads = vision.width // vision.head_width
    if heads < 1 or vision.width % heads:
        return [
            f"its width {vision.width} does not divide into heads of head_width {vision.head_width}"
        ]
    if any(s < p for s, p in zip(_pair(vision.image_size), _pair(vision.patch_size), strict=True)):
        return [f"its image_size {vision.image_size} is below its patch_size {vision.patch_size}"]
    return []


def sizes(config: dict[str, Any]) -> Sizes:
    """Sizes of a model without faults."""
    vision = CLIPVisionCfg(**config["vision_cfg"])
    height, width = _pair(vision.image_size)
    patch_height, patch_width = _pair(vision.patch_size)
    heads = vision.width // vision.head_width
    return Sizes(
        image_size=(height, width),
        grid=(height // patch_height, width // patch_width),
        prefix=1,
        layers=int(vision.layers),  # a list means a ResNet: a fault
        heads=heads,
        head_dim=vision.width // heads,
        width=vision.width,
        mlp_width=int(vision.width * vision.mlp_ratio),
        embed_dim=config["embed_dim"],
        activation=_activation(config, "vision_cfg"),
    )


def _activation(config: dict[str, Any], tower: str) -> str:
    if config.get("quick_gelu"):
        return "quickgelu"
    kwargs = config[tower].get("act_kwargs") or {}
    return "gelu_tanh" if kwargs.get("approximate") == "tanh" else "gelu"


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


# -- modules -------------------------------------------------------------------------------


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


def tower(model: VisionModel) -> OpenClipTower:
    """The image tower of a loaded model."""
    return OpenClipTower(model)


class OpenClipTower:
    """An `open_clip.transformer.VisionTransformer`, block by block.

    The residual stream, the LayerNorms and what comes after the last block stay in float32
    (float64).
    """

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual = model, model.visual
        resblocks = self._visual.transformer.resblocks
        self.blocks: Sequence[PreNormBlock] = [
            PreNormBlock(
                heads=model.heads,
                head_dim=model.head_dim,
                dtype=model.dtype,
                last=block is resblocks[-1],
                norms=(block.ln_1, block.ln_2),
                qkv=(block.attn.in_proj_weight, block.attn.in_proj_bias),
                out=(block.attn.out_proj.weight, block.attn.out_proj.bias),
                up=(block.mlp.c_fc.weight, block.mlp.c_fc.bias),
                down=(block.mlp.c_proj.weight, block.mlp.c_proj.bias),
                activation=block.mlp.gelu,
            )
            for block in resblocks
        ]

    @property
    def tail(self) -> Tail:
        return Tail(Norm.of(self._visual.ln_post), float64(self._visual.proj))

    def enter(self, images_bchw: Tensor) -> Tensor:
        model, visual = self._model, self._visual
        model.refuse_other_images(images_bchw)
        filters = visual.conv1.weight
        images = images_bchw.to(filters.device, filters.dtype)
        x_btd = images.new_empty(len(images), model.tokens, model.width)
        x_btd[:, 0] = visual.class_embedding
        x_btd[:, 1:] = embed_patches(images, filters)
        embedded: Tensor = visual.ln_pre(x_btd.add_(visual.positional_embedding))
        return embedded

    def read(self, values_bt: Tensor) -> Tensor:
        return values_bt[:, 0]

    def leave(self, x_btd: Tensor) -> Left:
        norm = self._visual.ln_post
        normed_bd, mean, inverse_std = torch.native_layer_norm(
            self.read(x_btd), norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )
        return Left(normed_bd @ self._visual.proj, mean[:, 0], 1 / inverse_std[:, 0])
