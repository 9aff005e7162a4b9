"""From a decoded picture to the model's input, bit for bit as open_clip or timm does it.

The library's transform is cut in two: what PIL does (resize, crop, RGB) runs where pictures are
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

from pipeline.images.decoding import DECODINGS
from pipeline.images.resize import FILTER, MODES, Resize

from .openclip_files import merge_preprocessing

if TYPE_CHECKING:
    import torch

# What timm takes where a model's settings say nothing: ImageNet's colours, and its crop.
TIMM: dict[str, Any] = {
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}


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
    """``bicubic``, ``bilinear`` … (open_clip runs ``random`` as bicubic outside training)."""
    resize_mode: str
    """``shortest`` edge then centre crop, ``longest`` edge then pad, ``squash``, or timm's
    ``center`` and ``border``: see `Resize`."""
    fill_color: int
    """Grey value of the padding; ``border`` pads with the mean colour."""
    crop_pct: float = 1.0
    """Of the resized picture's edge, the share that the centre crop keeps (timm); above 1 what
    is missing is black."""
    decoding: str = DECODINGS["exact"]
    """The rules by which files become pictures, and whose arithmetic: one of `DECODINGS`."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("interpolation", self.interpolation, tuple(FILTER)),
            ("resize_mode", self.resize_mode, MODES),
            ("decoding", self.decoding, tuple(DECODINGS.values())),
        ):
            if value not in allowed:
                raise ValueError(f"preprocessing {name} {value!r} is none of {', '.join(allowed)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"preprocessing size {self.size} must be a height and a width ≥ 1")
        if not 0 < self.crop_pct < math.inf:
            raise ValueError(f"preprocessing crop_pct {self.crop_pct} must be above 0 and finite")
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
        return cls(
            size=image_size,
            mean=_triple(merged["mean"]),
            std=_triple(merged["std"]),
            interpolation=merged["interpolation"],
            resize_mode=merged["resize_mode"],
            fill_color=merged["fill_color"],
        )

    @classmethod
    def of_timm(cls, image_size: tuple[int, int], settings: Mapping[str, Any]) -> Preprocess:
        """timm's evaluation transform of a model, as ``resolve_data_config`` settles it.

        Parameters
        ----------
        image_size : tuple of int
            Height and width of the model's input.
        settings : mapping
            The model's ``pretrained_cfg``, from timm's tables or a hub's config.
        """
        merged = {name: settings.get(name) or default for name, default in TIMM.items()}
        mode = merged["crop_mode"]
        return cls(
            size=image_size,
            mean=_triple(merged["mean"]),
            std=_triple(merged["std"]),
            interpolation=merged["interpolation"],
            resize_mode=mode if mode in ("squash", "border") else "center",
            fill_color=0,
            crop_pct=float(merged["crop_pct"]),
        )

    def identity(self) -> dict[str, Any]:
        """All that decides the model's input, and so tells stores apart: these settings;
        ``crop_pct`` stands where something is cut."""
        settings = asdict(self)
        if self.crop_pct == 1:
            del settings["crop_pct"]
        return settings

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
        return Resize.of(asdict(self))

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


def _triple(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else (value,) * 3
    return tuple(float(v) for v in values)
