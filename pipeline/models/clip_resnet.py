"""CLIP's ResNets: convolutions, then an attention pool whose query is the mean pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .family import OtherTower, Sizes
from .openclip_files import vision_config

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower

# Pixels of the picture, in a row, that one of the last stage stands for; channels of that stage by
# those of the first.
STRIDE = WIDENING = 32


def faults(config: dict[str, Any]) -> list[str]:
    """What keeps a model from being decomposed, in words; empty if nothing does."""
    vision = config.get("vision_cfg", {})
    if "architecture" in config or not isinstance(vision.get("layers"), list | tuple):
        return [OtherTower("its image tower is no ResNet of CLIP's")]
    if vision.get("timm_model_name"):
        return [OtherTower(f"its image tower is timm's {vision['timm_model_name']}")]
    vision = vision_config(**vision)
    size, heads = vision.image_size, vision.width * WIDENING // vision.head_width
    if not isinstance(size, int):
        return [f"its image_size {size} is no square's side"]
    found = []
    if (size + 1) // 2 // (STRIDE // 2) != size // STRIDE or size < STRIDE:
        found.append(f"its image_size {size} does not fit its pool: take a multiple of {STRIDE}")
    if heads < 1 or vision.width * WIDENING % heads:
        found.append(
            f"its {vision.width * WIDENING} channels do not divide into heads of head_width "
            f"{vision.head_width}"
        )
    return found


def sizes(config: dict[str, Any]) -> Sizes:
    """Sizes of a model without faults: its one layer is the pool."""
    vision = vision_config(**config["vision_cfg"])
    channels, side = vision.width * WIDENING, vision.image_size // STRIDE
    heads = channels // vision.head_width
    return Sizes(
        image_size=(vision.image_size, vision.image_size),
        grid=(side, side),
        prefix=1,
        layers=1,
        heads=heads,
        head_dim=channels // heads,
        width=config["embed_dim"],
        mlp_width=0,
        embed_dim=config["embed_dim"],
        activation="relu",
        reading="attention-pool",
        refined=("channels",),
    )


def parameters(config: dict[str, Any]) -> int | None:
    """Only the built module tells."""
    return None


def build(config: dict[str, Any]) -> Any:
    """An `open_clip.CLIP` or `open_clip.CustomTextCLIP`, random weights."""
    from . import openclip_tower

    return openclip_tower.build(config)


def prepare(module: Any) -> None:
    """Nothing is to be folded."""


def tower(model: VisionModel) -> Tower:
    """The image tower of a loaded model."""
    from .clip_resnet_tower import ClipResnetTower

    return ClipResnetTower(model)
