"""One tiny model of every family, by its library's own constructors, every weight of it random.

A member is a configuration as people have one: OpenCLIP's of a whole model, or timm's of a model
alone. Where OpenCLIP makes the tower by one of timm's names, which fixes its size, the name is of a
tiny sister that `tiny` registers with timm: the same constructor with other sizes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from safetensors.torch import save_file
from timm.layers import HybridEmbed
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vitamin import VitCfg
from torch import nn

from tests import tiny as sizes

TEXT = {**sizes.TEXT, **sizes.FEW_WORDS}
EMBED = 20
CLASSES = 7
# Of timm's ViTs: 4 × 4 patches.
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
WIDE = {**SMALL, "img_size": [32, 48]}


@dataclass(frozen=True, eq=False)
class Member:
    """A tiny model of a family."""

    family: str
    """The row of `FAMILIES` that takes it."""
    config: dict[str, Any]
    """OpenCLIP's configuration, or timm's, whose key `architecture` tells it apart."""
    reading: str
    """How the tail reads the stream."""
    grid: tuple[int, int] = (4, 4)
    prefix: int = 1

    @property
    def alone(self) -> bool:
        """Whether it is a timm model without a text tower."""
        return "architecture" in self.config

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its pictures."""
        if self.alone:
            _, height, width = self.config["pretrained_cfg"]["input_size"]
            return height, width
        given = self.config["vision_cfg"]["image_size"]
        return tuple(given) if isinstance(given, list) else (given, given)

    def build(self, seed: int = 0) -> nn.Module:
        """The library's own module in evaluation mode; `randomise` has drawn its weights."""
        module = _alone(self.config) if self.alone else _both(self.config)
        return randomise(module, seed).eval()

    def visual(self, module: nn.Module) -> nn.Module:
        """The image tower of what `build` gave."""
        return module if self.alone else module.visual

    def write(self, folder: Path, module: nn.Module) -> tuple[str, str]:
        """Configuration and weights as files: what ``--model`` and ``--pretrained`` take."""
        config, weights = folder / "config.json", folder / "weights.safetensors"
        config.write_text(json.dumps(self.config))
        save_file({k: v.float().contiguous() for k, v in module.state_dict().items()}, weights)
        return str(config), str(weights)


def _alone(config: dict[str, Any]) -> nn.Module:
    return timm.create_model(
        config["architecture"],
        num_classes=config["num_classes"],
        global_pool=config["global_pool"],
        **{
            k: v for k, v in config["model_args"].items() if k not in ("num_classes", "global_pool")
        },
    )


def _both(config: dict[str, Any]) -> nn.Module:
    config = {**config}
    if "multimodal_cfg" in config:
        config.pop("custom_text", None)
        return CoCa(**config)
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    return kind(**config)


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Draw every weight, so that none can be left out unseen: γ about one, β, biases, LayerScale,
    latents, positions and what BatchNorm kept of other pictures.

    What a layer sums over divides its weights, so that no activation grows.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = {
        id(p)
        for m in module.modules()
        for name, p in m.named_parameters(recurse=False)
        if p.ndim == 1 and (name.startswith("gamma") or (name == "weight"))
    }
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in scales:
            parameter.copy_(0.8 + 0.3 * drawn)
        elif parameter.ndim == 0:
            continue  # the temperature
        elif parameter.ndim == 1:
            parameter.copy_(0.3 * drawn)
        elif parameter.ndim == 2 or parameter.ndim == 4:
            parameter.copy_(1.2 * drawn / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.5 * drawn)  # tokens and positions
    for name, buffer in module.named_buffers():
        drawn = torch.randn(buffer.shape, generator=generator)
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * drawn)
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + drawn.abs())
    return module


# -- names with OpenCLIP's towers of timm's -------------------------------------------------


def tiny(name: str, **given: Any) -> str:
    """Register a tiny sister of one of timm's models with timm; its name."""
    made = timm.models.model_entrypoint(name)

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return made(pretrained=pretrained, **{**given, **kwargs})

    entry.__name__, entry.__module__ = f"tiny_{name}", __name__
    timm.models.register_model(entry)
    return entry.__name__


def _stem(**kwargs: Any) -> HybridEmbed:
    """MobileCLIP-B's, which is a backbone that timm makes in one width only."""
    backbone = ConvStem(
        channels=(12, 12, 48), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU
    )
    return HybridEmbed(backbone, proj=False, **kwargs)


def open_clip(vision: dict[str, Any], **top: Any) -> dict[str, Any]:
    """OpenCLIP's configuration with one of its own towers."""
    vision = {
        "image_size": 32,
        "patch_size": 8,
        "width": 48,
        "layers": 3,
        "head_width": 16,
    } | vision
    return {"embed_dim": EMBED, "vision_cfg": vision, "text_cfg": TEXT, **top}


def timm_clip(
    name: str, pool: str, proj: str | None, size: int = 32, **more: Any
) -> dict[str, Any]:
    """OpenCLIP's configuration with one of timm's towers."""
    vision = {"image_size": size, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj}
    return {"embed_dim": EMBED, "vision_cfg": vision | more, "text_cfg": TEXT, "custom_text": True}


def alone(name: str, pool: str, classes: int = 0, **given: Any) -> dict[str, Any]:
    """timm's configuration of a model as its hub has it."""
    size = given["img_size"] if "img_size" in given else given.pop("size")
    return {
        "architecture": name,
        "num_classes": classes,
        "num_features": given.get("embed_dim", 48),
        "global_pool": pool,
        "model_args": given,
        "pretrained_cfg": {
            "input_size": [3, *(size if isinstance(size, list) else (size, size))],
            "num_classes": classes,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }


POOLED = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 3}
COCA = {
    "custom_text": True,
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
}

ZOO: dict[str, Member] = {
    # -- OpenCLIP's own
    "openclip": Member(
        "openclip-vit", open_clip({"image_size": [32, 48]}), "class-token", grid=(4, 6)
    ),
    "openclip-layerscale": Member(
        "openclip-vit", open_clip({"ls_init_value": 0.1}, quick_gelu=True), "class-token"
    ),
    "clipa": Member(
        "openclip-vit",
        open_clip({"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}),
        "mean",
    ),
    "openclip-mean-of-normed": Member(
        "openclip-vit", open_clip({"pool_type": "avg"}), "mean-of-normed"
    ),
    "openclip-custom": Member(
        "openclip-vit",
        open_clip(
            {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_fc": True}
        ),
        "class-token",
    ),
    "coca": Member("coca", open_clip({**POOLED, "output_tokens": True}, **COCA), "attention-pool"),
    "coca-class-token": Member("coca", open_clip({"output_tokens": True}, **COCA), "class-token"),
    "clip-resnet": Member(
        "clip-resnet",
        open_clip({"layers": [1, 1, 1, 1], "width": 4, "head_width": 32, "image_size": 64}),
        "attention-pool",
        grid=(2, 2),
    ),
    # -- OpenCLIP with towers of timm's
    "timm-clip": Member(
        "timm-vit",
        timm_clip(tiny("vit_base_patch16_clip_quickgelu_224", **SMALL), "token", None),
        "class-token",
    ),
    "timm-clip-projection": Member(
        "timm-vit",
        timm_clip(tiny("vit_base_patch16_224", **SMALL), "token", "linear", timm_proj_bias=True),
        "class-token",
    ),
    "siglip": Member(
        "timm-vit",
        timm_clip(tiny("vit_base_patch16_siglip_224", **SMALL), "map", "none") | {"embed_dim": 48},
        "attention-pool",
        prefix=0,
    ),
    "gap": Member(
        "timm-vit",
        timm_clip(tiny("vit_medium_patch16_gap_256", **SMALL), "", "linear"),
        "mean-of-normed",
        prefix=0,
    ),
    "vitamin": Member(
        "timm-vit",
        timm_clip(
            tiny(
                "vitamin_small_224",
                img_size=64,
                embed_dim=48,
                depth=2,
                num_heads=3,
                embed_cfg=VitCfg(embed_dim=(8, 16, 48), depths=(1, 1, 1), stem_width=8),
            ),
            "",
            "linear",
            size=64,
        ),
        "mean",
        prefix=0,
    ),
    "mobileclip-b": Member(
        "timm-vit",
        timm_clip(
            tiny(
                "vit_base_mci_224",
                img_size=64,
                embed_dim=48,
                depth=2,
                num_heads=3,
                embed_layer=_stem,
            ),
            "token",
            None,
            size=64,
        ),
        "class-token",
    ),
    "relative-positions": Member(
        "timm-vit",
        timm_clip(tiny("vit_relpos_medium_patch16_cls_224", **SMALL, rel_pos_dim=24), "", "linear"),
        "class-token",
    ),
    "eva01": Member(
        "eva",
        timm_clip(tiny("eva_giant_patch14_224", **SMALL), "token", None),
        "class-token",
    ),
    "eva02": Member(
        "eva",
        timm_clip(
            tiny("eva02_base_patch16_clip_224", **SMALL, ref_feat_shape=(3, 3)), "token", None
        ),
        "class-token",
    ),
    "eva02-e": Member(
        "eva",
        timm_clip(tiny("eva02_enormous_patch14_clip_224", **SMALL), "token", None),
        "class-token",
    ),
    "pe-core": Member(
        "eva",
        timm_clip(
            tiny(
                "vit_pe_core_base_patch16_224",
                **SMALL,
                attn_pool_num_heads=4,
                ref_feat_shape=(3, 3),
            ),
            "map",
            None,
        ),
        "attention-pool",
    ),
    "convnext": Member(
        "convnext",
        timm_clip(
            tiny("convnext_base", depths=(1, 1, 1, 3), dims=(8, 12, 16, 24)), "", "linear", size=64
        ),
        "pixels",
        grid=(2, 2),
        prefix=0,
    ),
    # -- timm's, alone
    "supervised": Member(
        "timm-vit", alone("vit_base_patch16_224", "token", CLASSES, **SMALL), "class-token"
    ),
    "deit3": Member(
        "timm-vit", alone("deit3_base_patch16_224", "token", CLASSES, **SMALL), "class-token"
    ),
    "dino": Member("timm-vit", alone("vit_base_patch16_224", "token", **SMALL), "class-token"),
    "dinov2": Member("timm-vit", alone("vit_base_patch14_dinov2", "token", **SMALL), "class-token"),
    "dinov2-registers": Member(
        "timm-vit",
        alone("vit_base_patch14_reg4_dinov2", "token", **WIDE),
        "class-token",
        grid=(4, 6),
        prefix=5,
    ),
    "dinov2-giant": Member(
        "timm-vit",
        alone("vit_giant_patch14_reg4_dinov2", "token", **SMALL),
        "class-token",
        prefix=5,
    ),
    "mae-mean": Member("timm-vit", alone("vit_base_patch16_224", "avg", **SMALL), "mean"),
    "siglip-alone": Member(
        "timm-vit",
        alone("vit_so400m_patch14_siglip_224", "map", **SMALL),
        "attention-pool",
        prefix=0,
    ),
    "siglip-gap": Member(
        "timm-vit",
        alone("vit_base_patch16_siglip_gap_224", "avg", **SMALL),
        "mean-of-normed",
        prefix=0,
    ),
    "aimv2": Member(
        "timm-vit",
        alone("aimv2_large_patch14_224", "avg", **SMALL),
        "mean-of-normed",
        prefix=0,
    ),
    "registers-pooled": Member(
        "timm-vit",
        alone("vit_so150m_patch16_reg4_map_256", "map", **SMALL),
        "attention-pool",
        prefix=0,
    ),
    "norm-behind": Member(
        "timm-vit", alone("vit_base_patch16_rpn_224", "avg", CLASSES, **SMALL), "mean", prefix=0
    ),
    "beit3": Member("timm-vit", alone("beit3_base_patch16_224", "avg", **SMALL), "mean"),
    "eva02-alone": Member(
        "eva",
        alone("eva02_base_patch14_224", "avg", CLASSES, **SMALL, ref_feat_shape=3),
        "mean",
    ),
    "rope-registers": Member(
        "eva",
        alone("vit_medium_patch16_rope_reg1_gap_256", "avg", **SMALL, ref_feat_shape=3),
        "mean",
    ),
    "dinov3": Member(
        "eva",
        alone("vit_small_patch16_dinov3", "token", **WIDE),
        "class-token",
        grid=(4, 6),
        prefix=5,
    ),
    "dinov3-mean-of-normed": Member(
        "eva", alone("vit_small_patch16_dinov3", "avg", **SMALL), "mean-of-normed", prefix=5
    ),
    "dinov3-swiglu": Member(
        "eva", alone("vit_small_plus_patch16_dinov3", "token", **SMALL), "class-token", prefix=5
    ),
    "rope-mixed": Member(
        "eva", alone("vit_small_patch16_rope_mixed_224", "token", **SMALL), "class-token"
    ),
    "sapiens2": Member(
        "eva",
        alone(
            "vit_base_patch16_sapiens2",
            "token",
            **{**SMALL, "num_heads": 4, "num_kv_heads": [4, 2, 4], "mlp_ratio": 2},
        ),
        "class-token",
        prefix=9,
    ),
    "beit": Member("beit", alone("beit_base_patch16_224", "avg", CLASSES, **SMALL), "mean"),
    "convnext-alone": Member(
        "convnext",
        alone("convnext_base", "avg", CLASSES, depths=[1, 1, 1, 2], dims=[8, 12, 16, 24], size=64),
        "pixels",
        grid=(2, 2),
        prefix=0,
    ),
}
