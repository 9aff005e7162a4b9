"""timm's ConvNeXt, in open_clip's models or by itself: the blocks of its last stage.

They have no attention: what a block is kept as is the mean over positions of what it wrote, as the
tail reads it. Its input may be of any size, so it is the configuration that tells it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .family import Sizes
from .openclip_files import vision_config
from .timm_family import TimmFamily
from .timm_known import known


@dataclass(frozen=True)
class ConvNext(TimmFamily):
    """See `Family`."""

    def faults(self, config: dict[str, Any]) -> list[str]:
        """What keeps a model from being decomposed, in words; empty if nothing does."""
        if found := super().faults(config):
            return found
        (height, width), stride = _input(config), _stride(config)
        if height % stride or width % stride:
            return [f"its input of {height} × {width} is no multiple of {stride}, its stride"]
        return []

    def sizes(self, config: dict[str, Any]) -> Sizes:
        """Sizes of a model without faults."""
        (height, width), stride = _input(config), _stride(config)
        grid = (height // stride, width // stride)
        return replace(super().sizes(config), image_size=(height, width), grid=grid)


FAMILY = ConvNext("convnext", "convnext_tower", "ConvNextTower")


def _stride(config: dict[str, Any]) -> int:
    """Pixels in a row that a position of the last stage stands for."""
    found = known(config).sizes
    assert found is not None  # it has no faults
    return found.image_size[0] // found.grid[0]


def _input(config: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the input."""
    if "architecture" in config:
        found = known(config).sizes
        assert found is not None
        return found.image_size
    size = vision_config(**config["vision_cfg"]).image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)
