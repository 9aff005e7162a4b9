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

from .decoding import Decode, decode_of

FILTER = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,  # open_clip's choice outside training
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
# What torch resizes, too.
FAST = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}
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
    decode : Decode
        Whose arithmetic: Pillow's where it is ``exact``, else torch's.
    """

    height: int
    width: int
    interpolation: str
    mode: str
    fill: int | tuple[int, ...]
    crop: float = 1.0
    decode: Decode = "exact"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Resize:
        """What preprocessing settings say, as a `Preprocess` or a store's metadata has them."""
        height, width = settings["size"]
        mode, fill = settings["resize_mode"], settings["fill_color"]
        if mode == "border":
            fill = tuple(round(255 * value) for value in settings["mean"])
        crop, decode = settings.get("crop_pct", 1.0), decode_of(settings)
        return cls(height, width, settings["interpolation"], mode, fill, crop, decode)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """(height, width, 3) uint8."""
        size = self.size_of(*image.size)
        if self.fast is not None and image.mode == "RGB":
            from . import fast  # brings torch

            resized = fast.resized(image, size, self.fast)
            return fast.packed(self._crop_or_pad(resized, self.padding))
        found = image.resize(size, self._filter())
        resized = np.asarray(found if found.mode == "RGB" else found.convert("RGB"))
        return self._crop_or_pad(resized, self.padding)

    @property
    def fast(self) -> str | None:
        """What torch calls the filter, where its arithmetic is asked for and there."""
        return None if self.decode == "exact" else FAST.get(self._filter())

    @property
    def on_card(self) -> tuple[Resize, ...]:
        """This one, if JPEGs are left for a card to decode and to resize."""
        return (self,) if self.decode == "gpu" and self.fast is not None else ()

    @property
    def padding(self) -> tuple[int, ...]:
        """The colour of what a picture does not fill."""
        fill = self.fill if self.mode in PADDED else 0
        return fill if isinstance(fill, tuple) else (fill,) * 3

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
        resized = image.resize(self.size_of(*image.size), Image.Resampling.NEAREST)
        return self._crop_or_pad(np.asarray(resized), padding)

    def _filter(self) -> Image.Resampling:
        if self.mode == "shortest" and self.height != self.width:
            return Image.Resampling.BICUBIC  # open_clip leaves the setting out here
        return FILTER[self.interpolation]

    def size_of(self, w: int, h: int) -> tuple[int, int]:
        """Width and height that a picture of a width and a height is brought to, before it is cut
        or padded."""
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
        self, pixels: NDArray[np.uint8], fill: int | tuple[int, ...]
    ) -> NDArray[np.uint8]:
        """The middle of (h, w, …) pixels, or they in the middle of what they do not fill."""
        wanted = (self.height, self.width)
        places = [placed(n, m) for n, m in zip(pixels.shape[:2], wanted, strict=True)]
        middle = pixels[tuple(source for source, _ in places)]
        if middle.shape[:2] == wanted:
            return middle
        canvas = np.full((*wanted, *pixels.shape[2:]), fill, np.uint8)
        canvas[tuple(target for _, target in places)] = middle
        return canvas


def placed(n: int, wanted: int) -> tuple[slice, slice]:
    """Which of ``n`` pixels in a row are kept, and where among those wanted they stand."""
    if n >= wanted:
        first = round((n - wanted) / 2.0)
        return slice(first, first + wanted), slice(0, wanted)
    first = (wanted - n) // 2
    return slice(0, n), slice(first, first + n)
