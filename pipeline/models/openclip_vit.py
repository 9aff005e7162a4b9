"""OpenCLIP's own ViT: OpenAI, OpenCLIP, MetaCLIP, DFN, CLIPA; whatever its text tower is.

All that is known here of how `open_clip.transformer.VisionTransformer` is built stands in this
file, as far as a configuration tells it, and in ``openclip_tower.py``, which needs the libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .family import OtherTower, Sizes
from .openclip_files import text_config, vision_config

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower


# -- configurations ------------------------------------------------------------------------


def faults(config: dict[str, Any]) -> list[str]:
    """What keeps a model from being decomposed, in words; empty if nothing does."""
    if other := other_tower(config):
        return [OtherTower(other)]
    vision = config["vision_cfg"]
    found: list[str] = []
    if "multimodal_cfg" in config:
        found.append(OtherTower("it is a CoCa"))
    if vision.get("attentional_pool"):
        found.append(OtherTower("it pools by attention (attentional_pool)"))
    return found + tower_faults(config)


def other_tower(config: dict[str, Any]) -> str:
    """Whose the image tower is, if it is no ViT of open_clip's own; else empty."""
    if "architecture" in config:
        return f"it is timm's {config['architecture']}"
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        return f"its image tower is timm's {vision['timm_model_name']}"
    return "its image tower is a ResNet" if isinstance(vision.get("layers"), list | tuple) else ""


def tower_faults(config: dict[str, Any]) -> list[str]:
    """What keeps a ViT of open_clip's own from being decomposed, whatever it is part of."""
    vision, found = config["vision_cfg"], []
    if vision.get("pool_type", "tok") not in ("tok", "avg"):
        found.append(f"it does not pool (pool_type {vision['pool_type']!r})")
    if vision.get("scaled_cosine_attn"):
        found.append("scaled_cosine_attn does not run in open_clip itself")
    if vision.get("scale_attn"):
        found.append("its blocks norm what their attention writes (scale_attn)")
    if config.get("quick_gelu") and vision.get("act_kwargs"):
        found.append("it runs QuickGELU, which takes no act_kwargs")
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
        activation=_activation(config),
        reading=reading(vision),
        varying_bias=reading(vision) == "mean-of-normed",
    )


def reading(vision: Any) -> str:
    """How the tail of a ViT of open_clip's own reads its tokens, by open_clip's configuration."""
    if vision.pool_type == "tok":
        return "class-token"
    return "mean" if vision.final_ln_after_pool else "mean-of-normed"


def parameters(config: dict[str, Any]) -> int | None:
    """How many numbers both towers hold; None where only the built module tells."""
    text, vision = config.get("text_cfg"), vision_config(**config["vision_cfg"])
    if _custom(vision):
        return None
    image = vision_parameters(config)
    words = 0 if text is None else text_parameters(config)
    return (
        None if words is None else image + words + 1 + (config.get("init_logit_bias") is not None)
    )


def vision_parameters(config: dict[str, Any]) -> int:
    """How many numbers a ViT of open_clip's own holds whose blocks are the default ones."""
    vision = vision_config(**config["vision_cfg"])
    patch_height, patch_width = _pair(vision.patch_size)
    rows, columns = sizes(config).grid
    embedding = vision.width * (3 * patch_height * patch_width + 1 + (rows * columns + 1))
    norms = _norm(vision) * (1 if vision.no_ln_pre else 2)
    return embedding + norms + _blocks(vision) + vision.width * int(config["embed_dim"])


def text_parameters(config: dict[str, Any]) -> int | None:
    """Those of a text tower of open_clip's own; None where its blocks are custom or it is
    another's."""
    text, embed = text_config(**config["text_cfg"]), config["embed_dim"]
    if text.hf_model_name or _custom(text):
        return None
    # A class token's place, and, in a tower of its own module, the token.
    rows = text.context_length + bool(text.embed_cls) * (1 + bool(config.get("custom_text")))
    words = text.width * (text.vocab_size + rows) + _norm(text)
    if text.proj_type != "none":
        words += text.width * embed + (embed if text.proj_bias else 0)
    return int(words) + _blocks(text)


def _custom(tower: Any) -> bool:
    """Whether a tower's blocks are of open_clip's other class."""
    options = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn",
               "scale_fc")  # fmt: skip
    return tower.block_type not in (None, "default") or any(getattr(tower, n) for n in options)


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


def _activation(config: dict[str, Any]) -> str:
    if config.get("quick_gelu"):
        return "quickgelu"
    kwargs = config["vision_cfg"].get("act_kwargs") or {}
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
