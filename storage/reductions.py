"""``reductions.zarr``: counts, means, covariances and principal components of subsets of a store.

One group a subset of the images. What is kept is what merging needs, in the factored
coordinates; readers lift it to the joint space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from . import arrays, urls, views
from .errors import Remedy, StoreError
from .layout import MODEL, REDUCTIONS, SOURCES, channels
from .metadata import Metadata
from .records import config_digest, of_json

SCALE = (
    "published: contributions divided by the norm of the image's embedding, so heads and mlps "
    "by ln_std * ‖embedding‖, tokens and embedding by ‖embedding‖"
)
# Principal axes kept of everything but heads, which keep all of theirs.
AXES_KEPT = 32
ALL = "all"


@dataclass(frozen=True)
class Reduction:
    """One reduced quantity: a row of the table of variants.

    Attributes
    ----------
    name : str
    component : str
        With what it is reduced: ``heads``, …, or ``embedding``.
    dims : tuple of str
        Axes of its mean; the last is the one that a covariance is over.
    covariance : bool
        Kept with its covariance and principal axes, or with its variance alone.
    axis : str
        Name, in the store, of the dimension of its principal axes.
    """

    name: str
    component: str
    dims: tuple[str, ...]
    covariance: bool = False
    axis: str = "component"


TABLE = (
    Reduction("heads", "heads", ("layer", "head", "head_dim"), True, "head_component"),
    Reduction("inverse_scale", "heads", ()),
    Reduction("bias_weights", "heads", ("layer",)),
    Reduction("mlps", "mlps", ("block", "width"), True),
    Reduction("tokens", "tokens", ("token", "embed")),
    Reduction("patches", "tokens", ("embed",), True),
    Reduction("sources", "sources", ("layer", "source", "head", "head_dim")),
    Reduction("pool_neurons", "pool_neurons", ("neuron",)),
    Reduction("channels", "channels", ("head", "channel")),
    Reduction("embedding", "embedding", ("embed",), True),
)


def table(meta: Metadata, components: Iterable[str]) -> list[Reduction]:
    """What is reduced of some components of a store."""
    absent = set() if meta.varying_bias else {"bias_weights"}
    return [r for r in TABLE if r.component in set(components) and r.name not in absent]


def axis_sizes(meta: Metadata) -> dict[str, int]:
    """Length of every axis that occurs in ``reductions.zarr``."""
    sizes = {
        "layer": meta.layers,
        "head": meta.heads,
        "head_dim": meta.head_dim,
        "block": meta.layers + 1,
        "width": meta.width,
        "token": meta.tokens,
        "embed": meta.embed,
        "source": len(SOURCES),
        "neuron": meta.mlp_width,
        "channel": channels(meta),
        "head_component": min(meta.head_dim, meta.embed),
        "component": min(AXES_KEPT, meta.embed, meta.width),
    }
    return sizes | {f"other_{name}": sizes[name] for name in ("head_dim", "width", "embed")}


def array_dims(reduction: Reduction) -> dict[str, tuple[str, ...]]:
    """Arrays of one reduction and their axes."""
    name, dims = reduction.name, reduction.dims
    moments = {f"{name}_count": (), f"{name}_mean": dims}
    if not reduction.covariance:
        return {**moments, f"{name}_variance": dims}
    return {
        **moments,
        f"{name}_covariance": (*dims, f"other_{dims[-1]}"),
        f"{name}_pca": (*dims[:-1], reduction.axis, dims[-1]),
        f"{name}_pca_variance": (*dims[:-1], reduction.axis),
    }


def mean_shape(reduction: Reduction, meta: Metadata) -> tuple[int, ...]:
    """Shape of a reduction's mean."""
    sizes = axis_sizes(meta)
    return tuple(sizes[d] for d in reduction.dims)


def state_bytes(reductions: Iterable[Reduction], meta: Metadata) -> int:
    """Bytes of the moments that are kept, held and merged (principal components come on top)."""
    sizes = axis_sizes(meta)
    return sum(
        8 * math.prod(sizes[d] for d in dims)
        for r in reductions
        for name, dims in array_dims(r).items()
        if "_pca" not in name
    )


@dataclass(frozen=True)
class Facts:
    """What a group of ``reductions.zarr`` says of itself.

    Attributes
    ----------
    where : str or None
        The subset's condition; None for all images.
    store : str
        Digest of the metadata of the store that was reduced.
    shards : dict of str to list of (first, last)
        Spans of shards that are counted, by component.
    scale : str
    """

    where: str | None
    store: str
    shards: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    scale: str = SCALE

    def counted(self, component: str) -> set[int]:
        """Shards of which this component is counted."""
        return {s for a, b in self.shards.get(component, []) for s in range(a, b + 1)}


def as_spans(shards: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as spans ``(first, last)``: a hundred thousand shards stay one pair."""
    found: list[tuple[int, int]] = []
    for shard in sorted(shards):
        if found and found[-1][1] == shard - 1:
            found[-1] = (found[-1][0], shard)
        else:
            found.append((shard, shard))
    return found


def subset_name(where: str | None) -> str:
    """Name of a subset's group: ``all``, or a digest of its condition."""
    return ALL if where is None else config_digest({"where": where})


def subset_url(url: str, where: str | None) -> str:
    return urls.join(url, REDUCTIONS, subset_name(where))


def as_dataset(meta: Metadata, values: Mapping[str, NDArray[Any] | int]) -> xr.Dataset:
    """The arrays of reductions with their axes."""
    sizes, dims = axis_sizes(meta), {k: d for r in TABLE for k, d in array_dims(r).items()}
    variables: dict[str, Any] = {}
    for name, value in values.items():
        shape = [sizes[d] for d in dims[name]]
        variables[name] = (dims[name], np.asarray(value).reshape(shape))
    used = {axis for axes, _ in variables.values() for axis in axes}
    coords = {axis: np.arange(sizes[axis]) for axis in ("layer", "head", "block") if axis in used}
    return xr.Dataset(variables, coords)


def write_reductions(
    url: str, meta: Metadata, values: Mapping[str, NDArray[Any] | int], facts: Facts
) -> None:
    """Replace a subset's reductions.

    The facts are written last: a group without them was cut short and counts as none.
    """
    data = as_dataset(meta, values)
    # One layer, or one block, is one chunk: a reader of one head need not fetch them all.
    chunks = {str(n): (1, *v.shape[1:]) for n, v in data.items() if v.ndim > 2}
    zarr.open_group(urls.zarr_store(urls.join(url, REDUCTIONS), read_only=False), mode="a")
    attributes = {
        "where": facts.where,
        "store": facts.store,
        "shards": {k: [list(r) for r in v] for k, v in facts.shards.items()},
        "scale": facts.scale,
    }
    arrays.write_dataset(subset_url(url, facts.where), data, {"facet": attributes}, chunks)


def find_reductions(url: str, meta: Metadata, where: str | None) -> Reductions | None:
    """A subset's reductions; None where there are none of this very store."""
    return _find(url, meta, subset_name(where))


def all_reductions(url: str, meta: Metadata) -> list[Reductions]:
    """The reductions of every subset that was reduced."""
    names = urls.list_names(urls.join(url, REDUCTIONS))
    found = (_find(url, meta, name) for name in names if "." not in name)
    return [reductions for reductions in found if reductions is not None]


def _find(url: str, meta: Metadata, name: str) -> Reductions | None:
    place = urls.join(url, REDUCTIONS, name)
    if not urls.exists(urls.join(place, "zarr.json")):
        return None
    raw: Any = urls.open_group(place, mode="r").attrs.get("facet")
    if raw is None or raw["store"] != meta.digest():
        return None
    return Reductions(arrays.open_dataset(place), of_json(Facts, raw, place), url, meta)


class Reductions:
    """Counts, means, covariances and principal components of one subset, on the published scale.

    Attributes
    ----------
    data : xarray.Dataset
        Everything, lazy, in factored coordinates, float64.
    facts : Facts
    meta : Metadata
        Of the store that was reduced.
    """

    def __init__(self, data: xr.Dataset, facts: Facts, url: str, meta: Metadata) -> None:
        self.data, self.facts, self._url, self.meta = data, facts, url, meta

    @cached_property
    def _model(self) -> xr.Dataset:
        return arrays.open_dataset(urls.join(views.find(self._url)[0], MODEL))

    def array(self, name: str) -> xr.DataArray:
        """One array, such as ``heads_covariance``; ``StoreError`` where it was not reduced."""
        if name not in self.data:
            raise StoreError(
                f"no {name} in these reductions (they hold {', '.join(map(str, self.data))}): it "
                "takes a run to its end, with the component",
                Remedy.anew("reduce", self._url, where=self.facts.where),
            )
        return self.data[name]

    def count(self, name: str = "heads") -> int:
        """Images (patches of images, for ``patches``) that were counted."""
        return int(self.array(f"{name}_count"))

    def head_mean(self, layer: int, head: int) -> xr.DataArray:
        """Mean contribution of one head in the joint space, (embed,) float64."""
        return self._head("heads_mean", layer, head) @ self._head_map(layer, head)

    def head_covariance(self, layer: int, head: int) -> xr.DataArray:
        """Population covariance of one head's contributions, (embed, other_embed) float64."""
        head_map = self._head_map(layer, head)
        right = head_map.rename(head_dim="other_head_dim", embed="other_embed")
        return head_map @ self._head("heads_covariance", layer, head) @ right

    def head_pca(self, layer: int, head: int, n: int | None = None) -> xr.Dataset:
        """Principal components of one head's contributions, lifted to the joint space.

        Returns
        -------
        xarray.Dataset
            ``components`` (component, embed): orthonormal rows by falling variance, zero where
            there is no variance; ``variance`` (component,) along each.
        """
        rows = self._head("heads_pca", layer, head) @ self._head_map(layer, head)
        return _pca(rows, self._head("heads_pca_variance", layer, head), n)

    def block_mean(self, block: int) -> xr.DataArray:
        """Mean contribution of one block in the joint space, (embed,) float64."""
        return self.array("mlps_mean").isel(block=block) @ self._mlp_map()

    def block_pca(self, block: int, n: int | None = None) -> xr.Dataset:
        """Principal components of one block's contributions, as ``head_pca``."""
        rows = self.array("mlps_pca").isel(block=block) @ self._mlp_map()
        return _pca(rows, self.array("mlps_pca_variance").isel(block=block), n)

    def embedding_pca(self, n: int | None = None) -> xr.Dataset:
        """Principal components of the unit embeddings, as ``head_pca``."""
        return _pca(self.array("embedding_pca"), self.array("embedding_pca_variance"), n)

    def patch_pca(self, n: int | None = None) -> xr.Dataset:
        """Principal components of the contributions of all patches, as ``head_pca``."""
        return _pca(self.array("patches_pca"), self.array("patches_pca_variance"), n)

    def _head(self, name: str, layer: int, head: int) -> xr.DataArray:
        return self.array(name).isel(layer=layer, head=head)

    def _head_map(self, layer: int, head: int) -> xr.DataArray:
        return self._model["head_map"].isel(layer=layer, head=head).astype("float64")

    def _mlp_map(self) -> xr.DataArray:
        return self._model["mlp_map"].astype("float64")


def _pca(rows: xr.DataArray, variance: xr.DataArray, n: int | None) -> xr.Dataset:
    axis = "head_component" if "head_component" in rows.dims else "component"
    kept = rows.sizes[axis]
    if n is not None and not 1 <= n <= kept:
        raise StoreError(
            f"{n} principal components asked for; {kept} are kept: ask for 1 to {kept}"
        )
    data = xr.Dataset({"components": rows.transpose(axis, "embed"), "variance": variance})
    return data.isel({axis: slice(n)}).rename({} if axis == "component" else {axis: "component"})
