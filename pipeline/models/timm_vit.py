"""timm's ViT, in open_clip's models or by itself: CLIP, SigLIP, DeiT 3, DINO, DINOv2, MAE, AIMv2.

Most of what is told here of a configuration stands in a table; ``timm_vit_tower.py`` knows the
module, and needs the libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .family import OtherTower, Sizes
from .timm_known import is_timm, known, trunk_name

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower


def faults(config: dict[str, Any]) -> list[str]:
    """What keeps a model from being decomposed, in words; empty if nothing does."""
    if not is_timm(config):
        return [OtherTower("its image tower is none of timm's")]
    found = known(config)
    if found.family in ("timm-vit", ""):
        return list(found.faults)
    return [OtherTower(f"its image tower is timm's {trunk_name(config)}, which is no plain ViT")]


def sizes(config: dict[str, Any]) -> Sizes:
    """Sizes of a model without faults."""
    found = known(config).sizes
    assert found is not None  # it has no faults
    return found


def parameters(config: dict[str, Any]) -> int | None:
    """How many numbers both towers hold; None where there is a text tower, which is to be built."""
    return None if config.get("text_cfg") else known(config).parameters


def build(config: dict[str, Any]) -> Any:
    """open_clip's model with a tower of timm's, or timm's alone; random weights."""
    from . import timm_trunk

    return timm_trunk.build(config)


def prepare(module: Any) -> None:
    """Fold what can be folded exactly."""
    from . import timm_vit_tower

    timm_vit_tower.prepare(module)


def tower(model: VisionModel) -> Tower:
    """The image tower of a loaded model."""
    from .timm_vit_tower import TimmVitTower

    return TimmVitTower(model)
