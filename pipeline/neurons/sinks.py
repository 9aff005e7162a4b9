"""What becomes of a shard's neuron rows: kept as they are, moments, or the top images.

A `Task` opens a sink for each shard and layer; the sink takes the shard's rows and ends in a
state. States of shards are merged in the order of the shards, so that the same shards always
give the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.stats.moments import Moments, chunk, combine, empty
from pipeline.subsets import shard_rows
from storage import arrays, neurons, urls
from storage.errors import StoreDtypeError
from storage.store import Store

from .directions import TopImages, top_chunk, top_combine
from .rows import OkImages, Packed, Rows, tensor, unpack


class Sink(Protocol):
    """Takes one shard's rows of one layer, in order."""

    def add(self, rows: Rows) -> None: ...

    def close(self) -> Any: ...


class Task(Protocol):
    """What to do with rows; sent to every worker."""

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> Sink: ...

    def merge(self, a: Any, b: Any) -> Any: ...


class PictureSink(Protocol):
    """Takes one shard's pictures for one layer, in order."""

    def add_pictures(self, pictures: OkImages) -> None: ...

    def close(self) -> Any: ...


class PictureTask(ABC):
    """What to do with the pictures themselves, where rows of neurons do not tell enough."""

    @abstractmethod
    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> PictureSink:
        """A sink for one shard and layer."""

    @abstractmethod
    def merge(self, a: Any, b: Any) -> Any:
        """The state of the images of both."""


class _Writer:
    """Rows of one array of one shard, written zarr shard by zarr shard; NaN where not ok."""

    def __init__(self, store: Store, mlp_layer: int, name: str, shard: int) -> None:
        have = neurons.kept(store.url, mlp_layer)
        spec = neurons.neuron_arrays(store.meta, mlp_layer, have)[name]
        place = neurons.group_url(store.url, mlp_layer)
        self.target = arrays.Target(place, urls.open_group(place, mode="r+"), name)
        self.name, self.layer, self.dtype = name, mlp_layer, np.dtype(spec.dtype)
        assert spec.shards is not None  # arrays along the images have them
        self.at_once, self.sizes = spec.shards[0], spec.shape[1:]
        self.start, self.stop = store.meta.rows(shard)
        self._new()

    def _new(self) -> None:
        size = min(self.at_once, self.stop - self.start)
        self.rows = np.full((size, *self.sizes), np.nan, self.dtype)
        self.ok = np.zeros(size, bool)

    def add(self, images_b: Tensor, values: Tensor) -> None:
        with np.errstate(over="ignore"):  # looked for below
            found = values.cpu().numpy().astype(self.dtype, copy=False)
        if not np.isfinite(found).all():
            first, last = int(images_b[0]), int(images_b[-1])
            arrays.refuse_not_finite(
                f"{self.name} of MLP layer {self.layer}, images {first}-{last}",
                values.cpu().numpy(),
            )
            raise StoreDtypeError(
                f"{self.name} of MLP layer {self.layer}: a value of images {first}-{last} does "
                f"not fit {self.dtype}; run again with `store_dtype` float32"
            )
        numbers = images_b.numpy()
        while len(numbers):
            while numbers[0] >= self.start + len(self.rows):
                self._flush()
            inside = numbers < self.start + len(self.rows)
            self.rows[numbers[inside] - self.start] = found[inside]
            self.ok[numbers[inside] - self.start] = True
            numbers, found = numbers[~inside], found[~inside]

    def _flush(self) -> None:
        self.target.write(self.start, self.rows, self.ok)
        self.start += len(self.rows)
        self._new()

    def close(self) -> None:
        while self.start < self.stop:
            self._flush()


# -- rows as they are ----------------------------------------------------------------------


@dataclass(frozen=True)
class KeepRows:
    """Coefficients and peaks go into the store."""

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> Sink:
        return _RowSink(store, mlp_layer, shard, known)

    def merge(self, a: int, b: int) -> int:
        return a + b


class _RowSink:
    NAMES = ("coefficients", "peaks")

    def __init__(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> None:
        self.at = (store.url, mlp_layer, shard, known)
        self.writers = [_Writer(store, mlp_layer, name, shard) for name in self.NAMES]
        self.images = 0

    def add(self, rows: Rows) -> None:
        self.images += len(rows.images_b)
        for writer, values in zip(
            self.writers, (rows.coefficients_bpn, rows.peaks_bn), strict=True
        ):
            writer.add(rows.images_b, values)

    def close(self) -> int:
        url, layer, shard, known = self.at
        for writer in self.writers:
            writer.close()
        # Peaks first: a shard counts as there once its coefficients are.
        for name in reversed(self.NAMES):
            neurons.finish_shard(url, layer, name, shard, known)
        return self.images


# -- moments -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GatherMoments:
    """Moments of the published coefficients, of (neuron, path) rows.

    Attributes
    ----------
    covariance : bool
    where : str or None
        Which images are counted.
    """

    covariance: bool
    where: str | None = None

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> Sink:
        shape = (store.meta.neurons, len(store.meta.paths(mlp_layer)))
        chosen = None if self.where is None else subset(store, shard, self.where)
        return _MomentSink(empty(shape, self.covariance), chosen)

    def merge(self, a: Moments, b: Moments) -> Moments:
        return combine([a, b])


def subset(store: Store, shard: int, where: str) -> Tensor:
    """Numbers of a shard's images that are ok and in a subset, int64."""
    return torch.from_numpy(shard_rows(store, shard, where)[0]["index"].to_numpy().copy())


class _MomentSink:
    def __init__(self, state: Moments, chosen: Tensor | None) -> None:
        self.state, self.chosen = state, chosen

    def add(self, rows: Rows) -> None:
        rows_bnp, scale_b = rows.coefficients_bpn.movedim(1, 2).cpu(), rows.scale_b.cpu()
        if self.chosen is not None:
            keep = torch.isin(rows.images_b, self.chosen)
            rows_bnp, scale_b = rows_bnp[keep], scale_b[keep]
        new = chunk(rows_bnp.numpy(), scale=scale_b.numpy(), covariance=self.state.has_covariance)
        self.state = combine([self.state, new])

    def close(self) -> Moments:
        return self.state


# -- top images ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Top:
    """The top images of a layer's neurons, and the mean of all norms.

    Attributes
    ----------
    images : int
        Seen so far.
    norm_sum_n : (N,) float64
    top : TopImages
    """

    images: int
    norm_sum_n: Tensor
    top: TopImages


@dataclass(frozen=True, eq=False)
class GatherTop:
    """The k images of longest mean-removed effect; norms go into the store if they are kept.

    Attributes
    ----------
    k : int
    keep_norms : bool
    means : dict of int to (P, N) float
        Mean coefficients, published, by MLP layer.
    maps : dict of int to packed maps
    """

    k: int
    keep_norms: bool
    means: dict[int, NDArray[Any]]
    maps: dict[int, Packed]

    def open(self, store: Store, mlp_layer: int, shard: int, known: pa.Table) -> Sink:
        return _TopSink(self, store, mlp_layer, shard, known)

    def merge(self, a: Top, b: Top) -> Top:
        norm_sum_n = a.norm_sum_n + b.norm_sum_n
        return Top(a.images + b.images, norm_sum_n, top_combine([a.top, b.top]))


class _TopSink:
    def __init__(
        self, task: GatherTop, store: Store, mlp_layer: int, shard: int, known: pa.Table
    ) -> None:
        self.task, self.at = task, (store.url, mlp_layer, shard, known)
        self.writer = _Writer(store, mlp_layer, "norms", shard) if task.keep_norms else None
        paths, neurons_ = task.means[mlp_layer].shape
        self.device: torch.device | None = None
        self.state = no_top(neurons_, paths, task.k)

    def add(self, rows: Rows) -> None:
        layer = rows.mlp_layer
        if self.device is None:
            self.device = rows.coefficients_bpn.device
            self.mean_pn = tensor(self.task.means[layer], self.device)
            self.maps = unpack(self.task.maps[layer], self.device)
        deviations_bpn = rows.deviations(self.mean_pn)
        norms_bn = self.maps.norms(deviations_bpn)
        numbers_b = rows.images_b.to(self.device)
        top = top_chunk(norms_bn, deviations_bpn, numbers_b, self.task.k, rows.peaks_bn)
        new = Top(
            len(norms_bn),
            norms_bn.double().sum(0).cpu(),
            TopImages(**{name: values.cpu() for name, values in vars(top).items()}),
        )
        self.state = self.task.merge(self.state, new)
        if self.writer is not None:
            self.writer.add(rows.images_b, norms_bn)

    def close(self) -> Top:
        if self.writer is not None:
            url, layer, shard, known = self.at
            self.writer.close()
            neurons.finish_shard(url, layer, "norms", shard, known)
        return self.state


def no_top(neurons_: int, paths: int, k: int) -> Top:
    """The state of no images at all."""
    top = TopImages(
        torch.full((neurons_, k), -1),
        torch.full((neurons_, k), -1.0),
        torch.zeros(neurons_, k, paths),
        torch.full((neurons_, k), torch.nan),
    )
    return Top(0, torch.zeros(neurons_, dtype=torch.float64), top)
