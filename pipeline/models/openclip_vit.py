"""OpenCLIP's own ViT with class-token pooling: OpenAI, OpenCLIP, MetaCLIP, DFN.

All that is known here of how `open_clip.transformer.VisionTransformer` is built stands in this
file, as far as a configuration tells it, and in ``openclip_tower.py``, which needs the libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .family import Sizes
from .openclip_files import text_config, vision_config

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower


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
    return found + _size_faults(vision_config(**vision))


def _size_faults(vision: Any) -> list[str]:
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
    vision = vision_config(**config["vision_cfg"])
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


def parameters(config: dict[str, Any]) -> int | None:
    """How many numbers both towers hold; None where the text tower's blocks are custom."""
    vision, text = vision_config(**config["vision_cfg"]), text_config(**config["text_cfg"])
    embed = config["embed_dim"]
    custom = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn",
              "scale_fc")  # fmt: skip
    if text.block_type not in (None, "default") or any(getattr(text, name) for name in custom):
        return None
    patch_height, patch_width = _pair(vision.patch_size)
    rows, columns = sizes(config).grid
    image = vision.width * (
        3 * patch_height * patch_width + 1 + (rows * columns + 1) + embed
    ) + _norm(vision) * (1 if vision.no_ln_pre else 2)
    # A class token's place, and, in a tower of its own module, the token.
    rows = text.context_length + bool(text.embed_cls) * (1 + bool(config.get("custom_text")))
    words = text.width * (text.vocab_size + rows) + _norm(text)
    if text.proj_type != "none":
        words += text.width * embed + (embed if text.proj_bias else 0)
    logits = 1 + (config.get("init_logit_bias") is not None)
    return image + _blocks(vision) + words + _blocks(text) + logits


def _blocks(tower: Any) -> int:
    """Parameters of a tower's blocks."""
    width, hidden = tower.width, int(tower.width * tower.mlp_ratio)
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * hidden + hidden + width
    scales = 0 if tower.ls_init_value is None else 2 * width
    return int(tower.layers) * (attention + mlp + scales + 2 * _norm(tower))


def _norm(tower: Any) -> int:
    """Parameters of one of a tower's norms."""
    given = tower.norm_kwargs or {}
    if not given.get("elementwise_affine", True):
        return 0
    return int(tower.width) * (2 if given.get("bias", True) else 1)


def _activation(config: dict[str, Any], tower: str) -> str:
    if config.get("quick_gelu"):
        return "quickgelu"
    kwargs = config[tower].get("act_kwargs") or {}
    return "gelu_tanh" if kwargs.get("approximate") == "tanh" else "gelu"


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


# -- what needs the libraries --------------------------------------------------------------


def build(config: dict[str, Any]) -> Any:
    """An `open_clip.CLIP` or `open_clip.CustomTextCLIP`, random weights."""
    from . import openclip_tower

    return openclip_tower.build(config)


def prepare(module: Any) -> None:
    """Fold what can be folded exactly."""
    from . import openclip_tower

    openclip_tower.prepare(module)


def tower(model: VisionModel) -> Tower:
    """The image tower of a loaded model."""
    from .openclip_tower import OpenClipTower

    return OpenClipTower(model)
