"""Edits of activation maps, before a latent is sought that makes them (Gandelsman 2025, 4.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Edit = Callable[[Tensor], Tensor]


def zoom(maps_bkhw: Tensor) -> Tensor:
    """Twice as large: doubled with bilinear interpolation, cropped to its centre."""
    _, _, height, width = maps_bkhw.shape
    large = F.interpolate(maps_bkhw, scale_factor=2, mode="bilinear", align_corners=False)
    top, left = height // 2, width // 2
    return large[..., top : top + height, left : left + width]


def shift(right: float = 0.0, down: float = 0.0) -> Edit:
    """Moved by shares of the side; what comes in is zero.

    Maps of any size move alike, by a whole number of positions: a quarter is 1 position of 4,
    2 of 8.
    """

    def moved(maps_bkhw: Tensor) -> Tensor:
        height, width = maps_bkhw.shape[-2:]
        rows, columns = round(down * height), round(right * width)
        result = torch.zeros_like(maps_bkhw)
        to_rows, from_rows = _windows(rows, height)
        to_columns, from_columns = _windows(columns, width)
        result[..., to_rows, to_columns] = maps_bkhw[..., from_rows, from_columns]
        return result

    return moved


def _windows(by: int, size: int) -> tuple[slice, slice]:
    """Where values go, and where they come from, moved by ``by`` positions."""
    if abs(by) >= size:
        return slice(0, 0), slice(0, 0)
    return slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size - max(by, 0))


def copy_paste(share: float = 0.25) -> Edit:
    """Twice side by side: the left half of maps moved left, the right half of maps moved right."""

    def pasted(maps_bkhw: Tensor) -> Tensor:
        middle = maps_bkhw.shape[-1] // 2
        left, right = shift(-share)(maps_bkhw), shift(share)(maps_bkhw)
        return torch.cat([left[..., :middle], right[..., middle:]], -1)

    return pasted


def remove(maps_bkhw: Tensor) -> Tensor:
    """Nothing left: every map at its smallest value."""
    return maps_bkhw.amin((2, 3), keepdim=True).expand_as(maps_bkhw).clone()
