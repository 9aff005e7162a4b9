"""One (data set, model) pair, at one local path or object-store URL."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray

from . import arrays, ledger, neurons, urls, views
from .errors import Remedy, StoreError
from .layout import (
    CONTRIBUTIONS,
    IMAGES,
    INDEX,
    LEDGER,
    MODEL,
    SOURCES,
    contribution_arrays,
    model_arrays,
)
from .metadata import Metadata, require_same
from .reductions import Reductions, find_reductions
from .tables import StoreTables
from .validate import ReadAgain, faults

Mode = Literal["r", "r+"]


def create_store(url: str, meta: Metadata, model_maps: dict[str, NDArray]) -> Store:
    """Create the arrays of a new store, whose image table already stands.

    The driver alone calls this. The contributions' attributes are written last: they mark
    the store as created, and a creation cut short is simply done again. A store that another
    driver has created meanwhile is taken if it is the same.
    """
    done = ledger.done_shards(url)
    existing = views.find_metadata(url)
    if existing is not None:
        require_same(existing, meta, url)
        return open_store(url, mode="r+")
    if done:
        raise StoreError(
            f"{url} has {len(done)} finished shards, but nothing says of what: "
            f"{CONTRIBUTIONS}/zarr.json is missing. Put it back, or choose another `store`"
        )
    arrays.create_group(urls.join(url, MODEL), model_arrays(meta), {})
    place = urls.join(url, MODEL)
    group = urls.open_group(place, mode="r+")
    for spec in model_arrays(meta):
        arrays.Target(place, group, spec.name).write(0, model_maps[spec.name].astype(spec.dtype))
    attributes = {"facet": meta.to_json(), "coordinates": "key label"}
    arrays.create_group(urls.join(url, CONTRIBUTIONS), contribution_arrays(meta), attributes)
    return open_store(url, mode="r+")


def open_store(url: str, mode: Mode = "r") -> Store:
    """Open a store, or a view of one.

    Parameters
    ----------
    url : str
        Local path or ``s3://``, ``gs://`` URL.
    mode : {"r", "r+"}
        ``"r"`` cannot write.

    Raises
    ------
    StoreError
        If there is no store, or one whose creation was never finished.
    """
    url = urls.absolute(url)
    data, meta = views.find(url)
    return Store(url, meta, mode, data)


class Store(StoreTables):
    """An open store. All readers are lazy but ``images`` and ``ledger``.

    Attributes
    ----------
    url : str
        Where what is found of it is kept, and by what it is named.
    data : str
        Where its images, contributions and ledger are: another place where ``url`` is a view.
    meta : Metadata
    mode : {"r", "r+"}
    arrays : dict of str to ArraySpec
        The arrays of ``contributions.zarr`` that have an image axis.
    """

    def __init__(self, url: str, meta: Metadata, mode: Mode, data: str | None = None) -> None:
        super().__init__(url, data or url, meta)
        self.mode: Mode = mode
        self.arrays = {spec.name: spec for spec in contribution_arrays(meta)}
        self._targets: dict[str, arrays.Target] = {}

    def __repr__(self) -> str:
        m = self.meta
        return (
            f"Store({self.url!r}, {m.images} images, {m.architecture} {m.weights}, {m.components})"
        )

    # -- reading ---------------------------------------------------------------------------

    @cached_property
    def _contributions(self) -> xr.Dataset:
        return arrays.open_images(urls.join(self.data, CONTRIBUTIONS), self.meta.shard_size)

    @cached_property
    def _model(self) -> xr.Dataset:
        return arrays.open_dataset(urls.join(self.data, MODEL)).load()

    def contributions(self) -> xr.Dataset:
        """Everything in ``contributions.zarr``, lazy, in dask blocks of one shard; float32."""
        return self._contributions

    def model(self) -> xr.Dataset:
        """What the weights alone determine: head_map, mlp_map, attention_bias, bias and the rest
        of ``model.zarr``."""
        return self._model

    def heads(self, layer: int, head: int) -> xr.DataArray:
        """Contributions of one head, (image, embed) float32, lazy.

        Not divided by the embedding's norm: ``u · head_map / ln_std``.
        """
        self._refuse_other(layer=(layer, self.meta.layers), head=(head, self.meta.heads))
        data = self._component("heads").isel(layer=layer, head=head)
        head_map = self.model()["head_map"].isel(layer=layer, head=head)
        return self._scaled(data @ head_map, "heads")

    def mlps(self, block: int) -> xr.DataArray:
        """Contributions of one block (0: the start, l + 1: the MLP of layer l), lazy.

        (image, embed) float32: ``mlp · mlp_map / ln_std``.
        """
        blocks = self.meta.layers + 1
        if not -blocks <= block < blocks:
            raise IndexError(f"block {block} is out of range: the model has {blocks}")
        data = self._component("mlps").isel(block=block)
        return self._scaled(data @ self.model()["mlp_map"], "mlps")

    def sources(self, layer: int, head: int) -> xr.DataArray:
        """What one head wrote from the class token, from registers, and, where the store keeps
        `heads`, from patches: (image, source, embed) float32, lazy."""
        self._refuse_other(layer=(layer, self.meta.layers), head=(head, self.meta.heads))
        data = self._component("sources").isel(layer=layer, head=head)
        head_map = self.model()["head_map"].isel(layer=layer, head=head)
        wrote = (data @ head_map) / self.contributions()["ln_std"]
        wrote = wrote.assign_coords(source=list(SOURCES))
        if "heads" in self.meta.components:
            rest = self.heads(layer, head) - wrote.sum("source")
            wrote = xr.concat([wrote, rest.expand_dims(source=["patches"])], "source")
        return wrote.transpose("image", "source", "embed").rename("sources")

    def pool_neuron(self, neuron: int) -> xr.DataArray:
        """What one neuron of an attention pool's MLP wrote, (image, embed) float32, lazy."""
        data = self._component("pool_neurons")
        self._refuse_other(neuron=(neuron, self.meta.mlp_width))
        written = data.isel(neuron=neuron) * self.model()["pool_neuron_map"].isel(neuron=neuron)
        return self._scaled(written, "pool_neurons")

    def channels(self, head: int) -> xr.DataArray:
        """What one head of a convolutional network's pool wrote of each channel, (image, channel,
        embed) float32, lazy; the rest of it is of the pool's positions and the value bias."""
        data, model = self._component("channels"), self.model()
        self._refuse_other(head=(head, self.meta.heads))
        joint = model["channel_map"].isel(head=head) @ model["head_map"].isel(layer=0, head=head)
        wrote = data.isel(head=head) * joint / self.contributions()["ln_std"]
        return wrote.transpose("image", "channel", "embed").rename("channels")

    @staticmethod
    def _refuse_other(**places: tuple[int, int]) -> None:
        """Refuse places along axes that are not there: of each the place and how many there are."""
        for name, (value, size) in places.items():
            if not -size <= value < size:
                raise IndexError(f"{name} {value} is out of range: the model has {size}")

    def constants(self) -> xr.DataArray:
        """Contributions of biases, (image, embed), lazy.

        They depend on the image through ``ln_std``, and through ``bias_weights`` where a model has
        them.
        """
        model = self.model()
        sums = model["attention_bias"].sum("layer")
        if self.meta.varying_bias:
            sums = sums + self.contributions()["bias_weights"] @ model["bias_map"]
        return (self._scaled(sums, "attention_bias") + model["bias"]).rename("constants")

    def _scaled(self, sums: xr.DataArray, name: str) -> xr.DataArray:
        """What is still to be divided by each image's scale, (image, embed)."""
        contribution = sums / self.contributions()["ln_std"]
        return contribution.transpose("image", "embed").rename(name)

    def tokens(self) -> xr.DataArray:
        """Contributions of image tokens, (image, token, embed) float32, lazy.

        Summed over ``token_layers``.
        """
        return self._component("tokens")

    def embeddings(self) -> xr.DataArray:
        """The model's own output, (image, embed) float32, not normalised."""
        return self.contributions()["embedding"]

    def reductions(self, where: str | None = None) -> Reductions:
        """Counts, means, covariances and principal components of a subset of the images.

        Parameters
        ----------
        where : str, optional
            The condition that the subset was reduced with; all images unless given.
        """
        found = find_reductions(self.url, self.meta, where)
        if found is None:
            raise StoreError(
                "no reductions of this subset", Remedy.first("reduce", self.url, where=where)
            )
        return found

    def neurons(self, mlp_layer: int) -> xr.Dataset:
        """What is kept of one MLP layer's neurons, lazy, float32: see ``SCHEMA.md``.

        ``coefficients`` (image, path, neuron), ``peaks`` and ``norms`` (image, neuron), as far as
        they were asked to be kept; a path's ``path_layer`` and ``path_head`` are
        coordinates.
        """
        return neurons.open_neurons(self.url, mlp_layer)

    def _component(self, name: str) -> xr.DataArray:
        if name not in self.meta.components:
            raise StoreError(
                f"the store at {self.url} has no {name}; it was extracted with "
                f"`components` {' '.join(self.meta.components)}"
            )
        return self.contributions()[name]

    def validate(self, sources: ReadAgain | None = None) -> list[str]:
        """Every fault of the store, as one line each; empty if it is sound and finished.

        Parameters
        ----------
        sources : callable, optional
            Reads images again: ``pipeline.images.again.digests``. Every image of the source is
            then held against the sha256 that the ledger keeps of it.

        Raises
        ------
        StoreError
            If ``sources`` cannot be called.
        """
        if sources is not None and not callable(sources):
            raise StoreError(
                f"validate(sources={sources!r}): give what reads images again, "
                "`from pipeline.images.again import digests`"
            )
        return faults(self.data, self.meta, sources, kept=self.url)

    def size(self) -> dict[str, tuple[int, int]]:
        """Files and bytes of every part, ``{name: (files, bytes)}``."""
        return urls.tree(self.url)

    # -- writing ---------------------------------------------------------------------------

    def empty_rows(self, n: int) -> dict[str, NDArray]:
        """Unwritten rows of every array: NaN and empty strings, as bad images keep them."""
        return {
            name: np.full((n, *s.shape[1:]), "", object)
            if s.dtype == "str"
            else np.full((n, *s.shape[1:]), np.nan, s.dtype)
            for name, s in self.arrays.items()
        }

    def write_shard(
        self,
        shard: int,
        values: dict[str, NDArray],
        rows: pa.Table,
        facts: dict,
        started: float | None = None,
    ) -> dict[str, int]:
        """Write one shard whole, verify it, and declare it finished.

        Parameters
        ----------
        shard : int
        values : dict of str to ndarray
            Every array's rows, already of the store's dtype.
        rows : pyarrow.Table
            The ledger's rows, see ``ledger.SCHEMA``.
        facts : dict
            Facts to keep with the ledger part.
        started : float, optional
            When work on it began, seconds since 1970.

        Returns
        -------
        dict of str to int
            ``bytes``: bytes handed to zarr, before compression.

        Raises
        ------
        NotFinite
            If an image that is ok has a NaN or an infinite number.
        StoreError
            If the place cannot be written to.
        """
        if self.mode != "r+":
            raise StoreError(f"the store at {self.url} was opened read-only")
        if self.data != self.url:
            raise StoreError(f"{self.url} is a view: the store is at {self.data}")
        start, stop = self.meta.rows(shard)
        wrong = [
            n for n, v in values.items() if v.shape != (stop - start, *self.arrays[n].shape[1:])
        ]
        if values.keys() != self.arrays.keys() or wrong:
            raise ValueError(f"shard {shard}: arrays {sorted(values)} with wrong shapes {wrong}")
        if not self._targets:
            place = urls.join(self.url, CONTRIBUTIONS)
            group = urls.open_group(place, mode="r+")
            self._targets = {name: arrays.Target(place, group, name) for name in self.arrays}
        ok = np.asarray(rows["ok"], bool)
        try:
            for name, data in values.items():
                self._targets[name].write(start, data, ok)
            ledger.write_part(self.url, shard, rows, facts, started=started)
        except OSError as error:
            raise StoreError(
                f"shard {shard} cannot be written to {self.url}: {error}. Finished shards are "
                "kept: make room or mend the place, then run the same command again."
            ) from error
        return {"bytes": sum(v.nbytes for v in values.values())}

    def sweep(self, done: Collection[int] = ()) -> int:
        """Remove what killed writers left unfinished; returns how many files.

        Parameters
        ----------
        done : collection of int
            Finished shards. Their folders are not looked into, which takes minutes where there are
            many: writers have left nothing in them since shards are no longer written by zarr.
        """
        whole = (LEDGER, IMAGES, INDEX, neurons.NEURONS, neurons.STATES)
        swept = sum(urls.sweep_partial(urls.join(self.url, name)) for name in whole)
        contributions = urls.join(self.url, CONTRIBUTIONS)
        swept += urls.sweep_partial(contributions, skip=self.arrays)
        for name, spec in self.arrays.items():
            array = urls.join(contributions, name)
            swept += urls.sweep_partial(array, skip=(arrays.CHUNKS,))
            swept += urls.sweep_shards(urls.join(array, arrays.CHUNKS), len(spec.dims), done)
        return swept
