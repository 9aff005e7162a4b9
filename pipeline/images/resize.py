"""Resize and crop with PIL alone: what open_clip's and timm's transforms do before tensors.

Kept free of torch, so that workers that only decode start in a moment and stay small; tests
hold it against both libraries' own transforms bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTER = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,  # open_clip's choice outside training
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
# By the longest edge, the rest filled; by the shortest, the rest cut off; and by each.
PADDED, CUT = ("longest", "border"), ("shortest", "center")
MODES = (*CUT, *PADDED, "squash")


@dataclass(frozen=True)
class Resize:
    """From a picture of any size to the model's input size.

    Attributes
    ----------
    height, width : int
        Pixels.
    interpolation : str
        A key of ``FILTER``.
    mode : str
        ``shortest`` edge then centre crop, ``longest`` edge then pad, or ``squash``, as open_clip
        has them; ``center`` and ``border`` are timm's names of the first two, whose padding is
        the mean colour.
    fill : int or tuple of int
        Value of the padding, of each channel.
    crop : float
        timm's ``crop_pct``: the picture is brought to the input's size divided by this, and of
        that the centre is the input.
    """

    height: int
    width: int
    interpolation: str
    mode: str
    fill: int | tuple[int, ...]
    crop: float = 1.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Resize:
        """What preprocessing settings say, as a `Preprocess` or a store's metadata has them."""
        height, width = settings["size"]
        mode, fill = settings["resize_mode"], settings["fill_color"]
        if mode == "border":
            fill = tuple(round(255 * value) for value in settings["mean"])
        crop = settings.get("crop_pct", 1.0)
        return cls(height, width, settings["interpolation"], mode, fill, crop)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """(height, width, 3) uint8."""
        resized = image.resize(self._size(image), self._filter())
        fill = self.fill if self.mode in PADDED else 0
        colour = fill if isinstance(fill, tuple) else (fill,) * 3
        return np.asarray(self._crop_or_pad(resized, "RGB", colour).convert("RGB"))

    def mask(self, image: Image.Image, padding: int) -> NDArray[np.uint8]:
        """What is said of each pixel of a picture, on the pixels that the picture comes to.

        The same size and crop, and the nearest value, so that none is made that was not there.

        Parameters
        ----------
        image : Image
            Mode L, of the picture's size.
        padding : int
            The value of what is no part of the picture.

        Returns
        -------
        (height, width) uint8
        """
        resized = image.resize(self._size(image), Image.Resampling.NEAREST)
        return np.asarray(self._crop_or_pad(resized, "L", padding))

    def _filter(self) -> Image.Resampling:
        if self.mode == "shortest" and self.height != self.width:
            return Image.Resampling.BICUBIC  # open_clip leaves the setting out here
        return FILTER[self.interpolation]

    def _size(self, image: Image.Image) -> tuple[int, int]:
        w, h = image.size
        height, width = (math.floor(side / self.crop) for side in (self.height, self.width))
        if self.mode == "squash":
            return width, height
        if self.mode in CUT and height == width:
            # Rounded down, where the ratio below is rounded to the nearest.
            return (width, int(width * h / w)) if w <= h else (int(width * w / h), width)
        pick = max if self.mode in PADDED else min
        ratio = pick(h / height, w / width)
        return round(w / ratio), round(h / ratio)

    def _crop_or_pad(
        self, image: Image.Image, mode: str, fill: int | tuple[int, ...]
    ) -> Image.Image:
        w, h = image.size
        if (w, h) == (self.width, self.height):
            return image
        left, top = round((w - self.width) / 2.0), round((h - self.height) / 2.0)
        if w >= self.width and h >= self.height:
            return image.crop((left, top, left + self.width, top + self.height))
        canvas = Image.new(mode, (max(w, self.width), max(h, self.height)), fill)
        canvas.paste(
            image.convert(mode), (max(0, (self.width - w) // 2), max(0, (self.height - h) // 2))
        )
        left, top = (
            max(0, round((n - m) / 2.0))
            for n, m in zip(canvas.size, (self.width, self.height), strict=True)
        )
        return canvas.crop((left, top, left + self.width, top + self.height))
