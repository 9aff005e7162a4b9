"""Bilinear interpolation as matrices, and its adjoint.

Interpolation U is linear and separable, so ⟨Ua, b⟩ = ⟨a, Uᵀb⟩: maps of two sizes are multiplied
at the smaller one, and moments of Ua come from a alone.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from storage.rosetta import MapSize


@cache
def upsampling(length: int, target: int) -> torch.Tensor:
    """U of one axis, (target, length) float64: what torch does with ``align_corners=False``."""
    eye = torch.eye(length, dtype=torch.float64)[None]
    return F.interpolate(eye, size=target, mode="linear", align_corners=False)[0].T.contiguous()


def larger(one: MapSize, other: MapSize) -> MapSize:
    """The size at which two maps are compared: axis by axis the larger."""
    return max(one[0], other[0]), max(one[1], other[1])


def smaller(one: MapSize, other: MapSize) -> MapSize:
    """The size at which they are multiplied."""
    return min(one[0], other[0]), min(one[1], other[1])


def pull(maps_bhwc: torch.Tensor, size: MapSize) -> torch.Tensor:
    """Uᵀ of maps: the adjoint of interpolation from ``size`` up to the maps' own size."""
    height, width = maps_bhwc.shape[1:3]
    return _apply(maps_bhwc, _adjoint(size[0], height), _adjoint(size[1], width))


def up_and_back(maps_bhwc: torch.Tensor, target: MapSize) -> torch.Tensor:
    """UᵀU of maps, with U to ``target``: ⟨a, UᵀUa⟩ = ‖Ua‖²."""
    matrices = []
    for length, longer in zip(maps_bhwc.shape[1:3], target, strict=True):
        u = None if length == longer else upsampling(length, longer)
        matrices.append(None if u is None else u.T @ u)
    return _apply(maps_bhwc, *matrices)


def weights(size: MapSize, target: MapSize) -> torch.Tensor:
    """Uᵀ1, (height·width) float64: how much each position weighs in a sum at ``target``."""
    rows, columns = (upsampling(s, t).sum(0) for s, t in zip(size, target, strict=True))
    return torch.outer(rows, columns).flatten()


def _adjoint(length: int, longer: int) -> torch.Tensor | None:
    return None if length == longer else upsampling(length, longer).T


def _apply(
    maps_bhwc: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None
) -> torch.Tensor:
    """Multiply the axes of maps by matrices; None leaves an axis as it is."""
    if columns is not None:
        maps_bhwc = columns.to(maps_bhwc) @ maps_bhwc
    if rows is not None:
        b, h, w, c = maps_bhwc.shape
        maps_bhwc = (rows.to(maps_bhwc) @ maps_bhwc.reshape(b, h, w * c)).view(b, -1, w, c)
    return maps_bhwc
