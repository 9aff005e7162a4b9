"""Creating, writing and reading the store's zarr arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from . import urls
from .layout import ArraySpec


def create_group(url: str, specs: list[ArraySpec], attributes: Mapping[str, Any]) -> None:
    """Create empty arrays; the group's own object, with the attributes, is put last.

    A group without it is one whose creation was cut short. Two drivers may create the same
    group at once: each puts the same bytes, nothing is removed, and no chunk is touched.
    """
    objects: dict[str, Buffer] = {}
    group = zarr.open_group(MemoryStore(objects), mode="w")
    create_arrays(group, specs)
    for axis, size in {d: n for s in specs for d, n in zip(s.dims, s.shape, strict=True)}.items():
        if axis in ("layer", "head", "block"):
            array = group.create_array(axis, shape=(size,), dtype="int64", dimension_names=(axis,))
            array[:] = np.arange(size)
    group.attrs.update(dict(attributes))
    consolidate(group)
    for key in sorted(objects, key=lambda key: (key == "zarr.json", key)):
        urls.put_bytes(urls.join(url, key), objects[key].to_bytes())


def create_arrays(
    group: zarr.Group, specs: Iterable[ArraySpec], *, overwrite: bool = False
) -> None:
    """Create empty arrays, cut and compressed as every array of a store is."""
    for spec in specs:
        text = spec.dtype == "str"
        group.create_array(
            spec.name,
            shape=spec.shape,
            dtype=str if text else spec.dtype,
            chunks=spec.chunks,
            shards=spec.shards,
            fill_value="" if text else np.nan,
            # A checksum behind every chunk turns silent corruption into an error on reading.
            compressors=[
                BloscCodec(
                    cname="zstd",
                    clevel=1,
                    shuffle="noshuffle" if text else "shuffle",
                    typesize=1 if text else np.dtype(spec.dtype).itemsize,
                ),
                Crc32cCodec(),
            ],
            dimension_names=spec.dims,
            overwrite=overwrite,
        )


def consolidate(group: zarr.Group) -> zarr.Group:
    """Gather the metadata of all arrays in the group's own, so that opening it is one read."""
    with warnings.catch_warnings():
        # zarr v3 has no word on consolidation yet; every reader may ignore it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        return zarr.consolidate_metadata(group.store, path=group.path, zarr_format=3)


def write_dataset(
    url: str,
    data: xr.Dataset,
    attributes: Mapping[str, Any] | None = None,
    chunks: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write a small dataset whole, in place of what was there; the attributes come last."""
    data.to_zarr(
        urls.zarr_store(url, read_only=False),
        mode="w",
        zarr_format=3,
        consolidated=False,
        encoding={name: {"chunks": shape} for name, shape in (chunks or {}).items()},
    )
    group = consolidate(urls.open_group(url, mode="r+"))
    group.attrs.update(dict(attributes or {}))


def write_rows(group: zarr.Group, name: str, start: int, values: NDArray) -> None:
    """Write a shard's rows of one array whole, read them back, and compare bit for bit."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is not an array")
    window = slice(start, start + len(values))
    array[window] = values
    back = np.asarray(array[window])
    same = (back == values).all() if back.dtype.kind in "OT" else back.tobytes() == values.tobytes()
    if not same:
        raise OSError(f"rows {window.start}-{window.stop - 1} of {array.path} read back otherwise")


def open_dataset(url: str, images_per_block: int | None = None) -> xr.Dataset:
    """A zarr group as a lazy ``xarray.Dataset``, in blocks of whole shards."""
    chunks: Any = {} if images_per_block is None else {"image": images_per_block}
    store = urls.zarr_store(url, read_only=True)
    return xr.open_zarr(store, chunks=chunks, consolidated=True, zarr_format=3)
