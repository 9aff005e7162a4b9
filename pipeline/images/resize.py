"""Resize and crop with PIL alone: what open_clip's transform does before it makes tensors.

Kept free of torch, so that workers that only decode start in a moment and stay small; a test
holds it against open_clip's own transform bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTER = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,  # open_clip's choice outside training
}


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
        ``shortest`` edge then centre crop, ``longest`` edge then pad, or ``squash``.
    fill : int
        Grey value of the padding.
    """

    height: int
    width: int
    interpolation: str
    mode: str
    fill: int

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """(height, width, 3) uint8."""
        resized = image.resize(self._size(image), self._filter())
        fill = self.fill if self.mode == "longest" else 0
        return np.asarray(self._crop_or_pad(resized, "RGB", (fill,) * 3).convert("RGB"))

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
        if self.mode == "squash":
            return self.width, self.height
        if self.mode == "shortest" and self.height == self.width:
            # Rounded down, where the ratio below is rounded to the nearest.
            side = self.height
            return (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
        pick = max if self.mode == "longest" else min
        ratio = pick(h / self.height, w / self.width)
        return round(w / ratio), round(h / ratio)

    def _crop_or_pad(
        self, image: Image.Image, mode: str, fill: int | tuple[int, ...]
    ) -> Image.Image:
        w, h = image.size
        if self.mode == "squash":
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
