"""The families of models that can be decomposed, a row each."""

from __future__ import annotations

from typing import Any

from . import clip_resnet, coca, convnext, microworld_cnn, microworld_mae, openclip_vit
from .family import Family, OtherTower
from .timm_family import TimmFamily
from .timm_known import CLASSES, is_timm, known

FAMILIES: dict[str, Family] = {
    "openclip-vit": openclip_vit,
    "coca": coca,
    "clip-resnet": clip_resnet,
    "timm-vit": TimmFamily("timm-vit", "timm_vit_tower", "TimmVitTower"),
    "microworld-mae": microworld_mae,
    "microworld-cnn": microworld_cnn,
    "eva": TimmFamily("eva", "eva_tower", "EvaTower"),
    "beit": TimmFamily("beit", "beit_tower", "BeitTower"),
    "convnext": convnext.FAMILY,
}


def family_of(config: dict[str, Any]) -> str | None:
    """The family that takes a model configuration; None where none does."""
    return next((name for name in _asked(config) if not FAMILIES[name].faults(config)), None)


def faults(config: dict[str, Any]) -> list[str]:
    """What keeps the family that comes closest from taking a configuration, in words."""
    found = [FAMILIES[name].faults(config) for name in _asked(config)]
    if not found:
        return list(known(config).faults)
    return min(found, key=lambda of: (any(isinstance(f, OtherTower) for f in of), len(of)))


def _asked(config: dict[str, Any]) -> list[str]:
    """Families that may take a configuration: of timm's models the one that is known of it, of the
    embedded world's its own."""
    timms = {family for family, _ in CLASSES.values()}
    if "microworld" in config:
        return [f"microworld-{config['microworld']}"]
    if is_timm(config):
        return [name for name in [known(config).family] if name in FAMILIES]
    return [n for n in FAMILIES if n not in timms and not n.startswith("microworld-")]
