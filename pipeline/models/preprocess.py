"""From a decoded picture to the model's input, bit for bit as open_clip does it.

open_clip's transform is cut in two: what PIL does (resize, crop, RGB) runs where pictures are
decoded and gives uint8, a quarter of the bytes of float32; scaling and normalising run beside
the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.decode import DECODING
from pipeline.images.resize import FILTER, Resize

from .openclip_files import merge_preprocessing

if TYPE_CHECKING:
    import torch

RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Preprocess:
    """How pictures become the model's input; part of a store's identity."""

    size: tuple[int, int]
    """Height and width of the model's input, pixels."""
    mean: tuple[float, ...]
    """Subtracted from each channel, on the 0…1 scale."""
    std: tuple[float, ...]
    """Divides each channel."""
    interpolation: str
    """``bicubic`` or ``bilinear`` (open_clip runs ``random`` as bicubic outside training)."""
    resize_mode: str
    """``shortest`` edge then centre crop, ``longest`` edge then pad, or ``squash``."""
    fill_color: int
    """Grey value of the padding."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("interpolation", self.interpolation, tuple(FILTER)),
            ("resize_mode", self.resize_mode, RESIZE_MODES),
        ):
            if value not in allowed:
                raise ValueError(f"preprocessing {name} {value!r} is none of {', '.join(allowed)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"preprocessing size {self.size} must be a height and a width ≥ 1")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(
                f"preprocessing mean {self.mean} and std {self.std} need 3 numbers each"
            )
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise ValueError(
                f"preprocessing mean {self.mean} must be finite and std {self.std} positive"
            )

    @classmethod
    def of(cls, image_size: tuple[int, int], overlay: Mapping[str, Any]) -> Preprocess:
        """open_clip's defaults, overlaid by a tag's or a config file's own settings.

        The size is the model's: open_clip, too, lets the image tower decide it.
        """
        merged = merge_preprocessing(dict(overlay))

        def triple(value: Any) -> tuple[float, ...]:
            values = value if isinstance(value, list | tuple) else (value,) * 3
            return tuple(float(v) for v in values)

        return cls(
            size=image_size,
            mean=triple(merged["mean"]),
            std=triple(merged["std"]),
            interpolation=merged["interpolation"],
            resize_mode=merged["resize_mode"],
            fill_color=merged["fill_color"],
        )

    def identity(self) -> dict[str, Any]:
        """All that decides the model's input, and so tells stores apart: these settings, and
        ``decoding``, the rules by which files become pictures."""
        return {**asdict(self), "decoding": DECODING}

    def to_uint8(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize, crop and convert to RGB.

        Parameters
        ----------
        image
            A decoded picture of any size and mode.

        Returns
        -------
        NDArray[np.uint8]
            (height, width, 3), the model's input size.
        """
        return self.resize(image)

    @property
    def resize(self) -> Resize:
        """The part that runs where pictures are decoded."""
        return Resize(*self.size, self.interpolation, self.resize_mode, self.fill_color)

    def to_tensor(self, pixels_bhwc: torch.Tensor) -> torch.Tensor:
        """Scale to 0…1 and normalise, on the device where the pixels are.

        Parameters
        ----------
        pixels_bhwc
            uint8, (batch, height, width, 3), from `to_uint8`.

        Returns
        -------
        torch.Tensor
            float32, (batch, 3, height, width).
        """
        import torch
        from torchvision.transforms.functional import normalize

        if pixels_bhwc.dtype != torch.uint8 or tuple(pixels_bhwc.shape[1:]) != (*self.size, 3):
            raise ValueError(
                f"pixels are {pixels_bhwc.dtype} of shape {tuple(pixels_bhwc.shape)}; expected "
                f"uint8 (batch, {self.size[0]}, {self.size[1]}, 3): pass to_uint8's output"
            )
        planes = pixels_bhwc.permute(0, 3, 1, 2).to(
            torch.float32, memory_format=torch.contiguous_format
        )
        return normalize(planes.div_(255), list(self.mean), list(self.std), inplace=True)
