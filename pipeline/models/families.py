"""The families of models that can be decomposed, a row each."""

from __future__ import annotations

from typing import Any

from . import clip_resnet, coca, openclip_vit, timm_vit
from .family import Family, OtherTower

FAMILIES: dict[str, Family] = {
    "openclip-vit": openclip_vit,
    "coca": coca,
    "clip-resnet": clip_resnet,
    "timm-vit": timm_vit,
}


def family_of(config: dict[str, Any]) -> str | None:
    """The family that takes a model configuration; None where none does."""
    return next((name for name, family in FAMILIES.items() if not family.faults(config)), None)


def faults(config: dict[str, Any]) -> list[str]:
    """What keeps the family that comes closest from taking a configuration, in words."""
    found = [family.faults(config) for family in FAMILIES.values()]
    return min(found, key=lambda of: (any(isinstance(f, OtherTower) for f in of), len(of)))
