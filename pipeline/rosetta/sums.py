"""Running sums of the correlation of every unit of one model with every unit of another.

Pearson correlation over images × positions, at the larger of the two map sizes (Gandelsman
2025, Eq. 4.1-4.2). chunk: ``PairSums.add`` takes the maps of some images; combine: sums of other
images are merged (Chan et al. 1979); finalize: correlations.

Each batch is centred by its own means and multiplied in float32, and what the batch's means add
is a rank-one term of the same product; sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from storage.rosetta import HALVES, Card, MapSize, Tile

from . import bilinear

Floats = NDArray[np.float64]
# A unit whose standard deviation is below this share of its mean is constant in float32.
CONSTANT = 1e-6


class HalfMaps:
    """One model's maps of some images, centred; what is derived from them is made once.

    Parameters
    ----------
    maps_bhwc : sequence of (b, height, width, units) tensors
        One a layer; centred in place.
    """

    def __init__(self, maps_bhwc: Sequence[torch.Tensor]) -> None:
        self.images = len(maps_bhwc[0])
        self.shift = [m.mean((0, 1, 2)) for m in maps_bhwc]
        self.maps = [m.sub_(k) for m, k in zip(maps_bhwc, self.shift, strict=True)]
        self._sums: dict[int, torch.Tensor] = {}
        self._pulled: dict[tuple[int, MapSize], torch.Tensor] = {}
        self._moments: dict[tuple[int, MapSize], tuple[torch.Tensor, ...]] = {}
        self._of_runs: dict[tuple[int, ...], tuple[torch.Tensor, ...]] = {}

    def size(self, layer: int) -> MapSize:
        height, width = self.maps[layer].shape[1:3]
        return height, width

    def pulled(self, layer: int, size: MapSize) -> torch.Tensor:
        """Centred maps brought to ``size`` by the adjoint, (images · positions, units)."""
        key = layer, size
        if key not in self._pulled:
            maps = bilinear.pull(self.maps[layer], size)
            self._pulled[key] = maps.reshape(-1, maps.shape[-1])
        return self._pulled[key]

    def moments(self, layer: int, target: MapSize) -> tuple[torch.Tensor, ...]:
        """Sum about the shift, mean and M2 of interpolated maps, each (units,) float64."""
        key = layer, target
        if key not in self._moments:
            maps, size = self.maps[layer], self.size(layer)
            if layer not in self._sums:
                self._sums[layer] = maps.sum(0).flatten(0, 1).double()
            count = self.images * target[0] * target[1]
            rest = bilinear.weights(size, target).to(maps.device) @ self._sums[layer]
            # On a CPU image by image, so that what is made of one never leaves the cache.
            parts = (maps,) if maps.is_cuda else maps.split(1)
            squares = torch.stack([_squares(part, target) for part in parts]).sum(0)
            mean = self.shift[layer].double() + rest / count
            self._moments[key] = rest, mean, squares - rest**2 / count
        return self._moments[key]

    def moments_of(self, run: Run, target: MapSize) -> tuple[torch.Tensor, ...]:
        """`moments` of the units of a run."""
        first, last = run.segments[0], run.segments[-1]
        key = first.layer, first.channels.start, last.layer, last.channels.stop, *target
        if key not in self._of_runs:
            parts = [[m[s.channels] for m in self.moments(s.layer, target)] for s in run.segments]
            self._of_runs[key] = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        return self._of_runs[key]


def _squares(maps_bhwc: torch.Tensor, target: MapSize) -> torch.Tensor:
    """‖Ua‖² of each unit, U to ``target``: (units,) float64."""
    if tuple(maps_bhwc.shape[1:3]) == target:
        return maps_bhwc.square().sum((0, 1, 2)).double()
    return bilinear.up_and_back(maps_bhwc, target).mul_(maps_bhwc).sum((0, 1, 2)).double()


@dataclass(frozen=True)
class Segment:
    """A layer's part of an axis of a tile: its units there, and its channels."""

    layer: int
    size: MapSize
    units: slice
    channels: slice


@dataclass(frozen=True)
class Run:
    """Neighbouring segments of one size: what goes by units is done for all of them at once."""

    segments: tuple[Segment, ...]

    @property
    def size(self) -> MapSize:
        return self.segments[0].size

    @property
    def units(self) -> slice:
        return slice(self.segments[0].units.start, self.segments[-1].units.stop)

    def each(self) -> Iterator[tuple[Segment, slice]]:
        """Segments, and where their units lie among the run's."""
        for segment in self.segments:
            start, stop = (x - self.units.start for x in (segment.units.start, segment.units.stop))
            yield segment, slice(start, stop)


def runs(found: Iterable[Segment]) -> list[Run]:
    """Segments that follow each other, by size."""
    return [Run(tuple(group)) for _, group in groupby(found, lambda segment: segment.size)]


def segments(card: Card, start: int, stop: int) -> list[Segment]:
    """The layers that units ``start … stop-1`` of a model lie in."""
    found = []
    for i, (layer, first) in enumerate(zip(card.layers, card.offsets, strict=False)):
        low, high = max(start, first), min(stop, first + layer.units)
        if low < high:
            units, channels = slice(low - start, high - start), slice(low - first, high - first)
            found.append(Segment(i, layer.size, units, channels))
    return found


class Layout:
    """Where the layers of two models lie in a tile and in its moments.

    Moments of a unit are kept at its own size (place 0) and at the size at which it meets each
    distinct size of the other model.
    """

    def __init__(self, a: Card, b: Card, tile: Tile) -> None:
        self.rows = segments(a, tile.start, tile.stop)
        self.columns = segments(b, 0, b.units)
        self.sizes_a, self.sizes_b = a.sizes, b.sizes
        self.shape = tile.stop - tile.start, b.units

    def pairs(self) -> Iterable[tuple[Segment, Segment]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def places(self, row: Segment | Run, column: Segment | Run) -> tuple[int, int]:
        """Where the moments of a row's, and of a column's, units stand for their pair."""
        return 1 + self.sizes_b.index(column.size), 1 + self.sizes_a.index(row.size)

    def targets(self, own: MapSize, others: list[MapSize]) -> list[MapSize]:
        return [own, *(bilinear.larger(own, other) for other in others)]


@dataclass
class Sums:
    """Mergeable sums of a tile over some images, by half.

    Attributes
    ----------
    n : (halves,) int64
        Images.
    a_mean, a_m2 : (halves, rows, 1 + sizes of b) float64
        Mean, and sum of squared deviations over images and positions.
    b_mean, b_m2 : (halves, columns, 1 + sizes of a) float64
    c : (halves, rows, columns) float64
        Sum of products of deviations, at the larger size.
    """

    n: NDArray[np.int64]
    a_mean: Floats
    a_m2: Floats
    b_mean: Floats
    b_m2: Floats
    c: Floats

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def half(self, index: int) -> Sums:
        """A view of one half."""
        return Sums(**{name: value[index : index + 1] for name, value in self.arrays().items()})


class PairSums:
    """The sums of one tile as they grow, on the maps' device."""

    def __init__(self, layout: Layout, device: torch.device | str = "cpu") -> None:
        self.layout = layout
        self.rows, self.columns = runs(layout.rows), runs(layout.columns)
        rows, columns = layout.shape
        places_a, places_b = 1 + len(layout.sizes_b), 1 + len(layout.sizes_a)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros((len(HALVES), *shape), dtype=torch.float64, device=device)

        self.n = [0] * len(HALVES)
        self.a_mean, self.a_m2 = zeros(rows, places_a), zeros(rows, places_a)
        self.b_mean, self.b_m2 = zeros(columns, places_b), zeros(columns, places_b)
        self.c = zeros(rows, columns)

    def add(self, half: int, a: HalfMaps, b: HalfMaps) -> None:
        """Count the maps of some images of one half."""
        layout, old, new = self.layout, self.n[half], a.images
        weight = old * new / (old + new)  # of a difference of means, per position
        for row, column in product(self.rows, self.columns):
            place_a, place_b = layout.places(row, column)
            target = bilinear.larger(row.size, column.size)
            size = bilinear.smaller(row.size, column.size)
            positions = target[0] * target[1]
            rest_a, mean_a, _ = a.moments_of(row, target)
            rest_b, mean_b, _ = b.moments_of(column, target)
            # The batch's means were taken at the maps' own sizes, and differ from batch to batch.
            root, off = (positions * weight) ** 0.5, (new * positions) ** -0.5
            left = torch.stack(
                [rest_a * -off, (mean_a - self.a_mean[half, row.units, place_a]) * root]
            ).to(a.maps[0])
            right = torch.stack(
                [rest_b * off, (mean_b - self.b_mean[half, column.units, place_b]) * root]
            ).to(a.maps[0])
            # Layer by layer: such a part is added while it is in a processor's cache.
            for (x, in_left), (y, in_right) in product(row.each(), column.each()):
                maps = a.pulled(x.layer, size)[:, x.channels]
                part = maps.T @ b.pulled(y.layer, size)
                part.addmm_(left[:, in_left].T, right[:, in_right])
                self.c[half, x.units, y.units] += part
        self._add_moments(half, a, self.rows, self.a_mean, self.a_m2, layout.sizes_b)
        self._add_moments(half, b, self.columns, self.b_mean, self.b_m2, layout.sizes_a)
        self.n[half] += new

    def _add_moments(
        self,
        half: int,
        maps: HalfMaps,
        parts: list[Run],
        means: torch.Tensor,
        m2s: torch.Tensor,
        others: list[MapSize],
    ) -> None:
        old, new = self.n[half], maps.images
        for part in parts:
            for place, target in enumerate(self.layout.targets(part.size, others)):
                _, mean, m2 = maps.moments_of(part, target)
                kept = means[half, part.units, place]
                delta = mean - kept
                m2s[half, part.units, place] += m2 + delta**2 * (
                    old * new / (old + new) * target[0] * target[1]
                )
                kept += delta * (new / (old + new))

    def sums(self) -> Sums:
        """What was summed so far, on the CPU."""
        arrays = {n: getattr(self, n).cpu().numpy() for n in ("a_mean", "a_m2", "b_mean", "b_m2")}
        return Sums(n=np.array(self.n), **arrays, c=self.c.cpu().numpy())


def combine(layout: Layout, into: Sums, other: Sums) -> None:
    """Merge the sums of other images into ``into``, in place."""
    for half, (old, new) in enumerate(zip(into.n.tolist(), other.n.tolist(), strict=True)):
        if not new:
            continue
        delta_a = other.a_mean[half] - into.a_mean[half]
        delta_b = other.b_mean[half] - into.b_mean[half]
        weight = old * new / (old + new)
        into.c[half] += other.c[half]
        for row, column in layout.pairs():
            place_a, place_b = layout.places(row, column)
            height, width = bilinear.larger(row.size, column.size)
            left = delta_a[row.units, place_a] * (weight * height * width)
            into.c[half, row.units, column.units] += np.outer(left, delta_b[column.units, place_b])
        for parts, others, mean, m2, m2_new, delta in (
            (layout.rows, layout.sizes_b, into.a_mean, into.a_m2, other.a_m2, delta_a),
            (layout.columns, layout.sizes_a, into.b_mean, into.b_m2, other.b_m2, delta_b),
        ):
            for part in parts:
                areas = [h * w for h, w in layout.targets(part.size, others)]
                m2[half, part.units] += m2_new[half, part.units] + delta[
                    part.units
                ] ** 2 * weight * np.array(areas)
            mean[half] += delta * (new / (old + new))
        into.n[half] = old + new


@dataclass(frozen=True)
class Correlations:
    """Correlations of a tile over all images and over each half, and its units' moments.

    Attributes
    ----------
    whole, even, odd : (rows, columns) float32
        NaN where a unit is dead or constant.
    a_mean, a_std, b_mean, b_std : (units,) float64
        At the units' own map sizes; ``std`` is 0 where a unit is dead or constant.
    """

    whole: NDArray[np.float32]
    even: NDArray[np.float32]
    odd: NDArray[np.float32]
    a_mean: Floats
    a_std: Floats
    b_mean: Floats
    b_std: Floats

    def arrays(self) -> dict[str, NDArray[np.floating]]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def finalize(layout: Layout, sums: Sums) -> Correlations:
    """Correlations from sums, which are used up."""
    even, odd = (_pearson(layout, sums.half(i)) for i in range(len(HALVES)))
    whole = sums.half(0)
    combine(layout, whole, sums.half(1))
    a_std = _deviation(layout.rows, whole.n, whole.a_mean, whole.a_m2)
    b_std = _deviation(layout.columns, whole.n, whole.b_mean, whole.b_m2)
    return Correlations(
        _pearson(layout, whole), even, odd, whole.a_mean[0, :, 0], a_std,
        whole.b_mean[0, :, 0], b_std,
    )  # fmt: skip


def _deviation(parts: list[Segment], n: NDArray[np.int64], mean: Floats, m2: Floats) -> Floats:
    """Standard deviation of units at their own size, 0 for those that do not vary."""
    area = np.concatenate(
        [np.full(p.units.stop - p.units.start, p.size[0] * p.size[1]) for p in parts]
    )
    variance = m2[0, :, 0] / np.maximum(n[0] * area, 1)
    varies = variance > (CONSTANT * mean[0, :, 0]) ** 2
    return np.sqrt(np.where(varies, variance, 0.0))


def _pearson(layout: Layout, half: Sums) -> NDArray[np.float32]:
    found = np.empty(layout.shape, np.float32)
    for row, column in layout.pairs():
        place_a, place_b = layout.places(row, column)
        squares = np.outer(half.a_m2[0, row.units, place_a], half.b_m2[0, column.units, place_b])
        with np.errstate(invalid="ignore", divide="ignore"):
            block = half.c[0, row.units, column.units] / np.sqrt(squares)
        found[row.units, column.units] = block
    found[_deviation(layout.rows, half.n, half.a_mean, half.a_m2) == 0] = np.nan
    found[:, _deviation(layout.columns, half.n, half.b_mean, half.b_m2) == 0] = np.nan
    return found
