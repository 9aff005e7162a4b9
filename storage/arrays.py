"""Creating, writing and reading the store's zarr arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from . import urls
from .errors import NotFinite
from .layout import ArraySpec
from .sharding import Sharding, find_sharding

CHUNKS = "c"  # zarr's folder of an array's chunks
# Sums of float16 in float16 drift and overflow. By this attribute of the CF conventions, which
# changes no number, xarray reads an array as float64.
WIDER: dict[str, Any] = {"scale_factor": 1.0}


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
            attributes=WIDER if spec.dtype == "float16" else {},
            overwrite=overwrite,
        )


def consolidate(group: zarr.Group) -> zarr.Group:
    """Gather the metadata of all arrays in the group's own, so that opening it is one read."""
    with warnings.catch_warnings():
        # zarr v3 has no word on consolidation yet; every reader may ignore it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        return zarr.consolidate_metadata(group.store, path=group.path, zarr_format=3)


def refuse_not_finite(
    what: str, values: NDArray, first: int = 0, ok: NDArray[np.bool_] | None = None
) -> None:
    """Refuse NaN and infinite numbers, which nothing that is written may hold unnoticed.

    Parameters
    ----------
    what : str
        Of what, for the message.
    values : (N, ...) ndarray
        Of any dtype; one that is not of floating point is finite.
    first : int
        Number of the first row.
    ok : (N,) bool, optional
        Rows that are meant; the others hold nothing and are NaN.

    Raises
    ------
    NotFinite
        Naming the first row.
    """
    if values.dtype.kind != "f":
        return
    rows = np.atleast_1d(values)
    finite = _finite(rows)
    if finite.all():
        return
    lost = ~finite.reshape(len(rows), -1).all(1) & (True if ok is None else ok)
    if lost.any():
        raise NotFinite(
            f"{what}: NaN or infinite numbers in {int(lost.sum()):,} of {len(rows):,} rows, the "
            f"first is {first + int(np.flatnonzero(lost)[0])}: what they were computed from is "
            "damaged, or too large for the precision"
        )


def _finite(values: NDArray) -> NDArray[np.bool_]:
    if values.dtype != np.float16:
        return np.isfinite(values)
    # By the bits, as processors convert each float16 first: the exponent of NaN and infinity.
    return np.bitwise_and(values.view(np.uint16), 0x7C00) != 0x7C00


def _same(back: NDArray, values: NDArray) -> bool:
    """Whether the same was read as was written.

    A NaN need not come back in the bits that it went in: a chunk of fill value is not kept.
    """
    if back.dtype.kind != "f" or back.dtype != values.dtype:
        return np.array_equal(back, values)
    bits = f"u{back.itemsize}"
    same = np.array_equal(back.view(bits), values.view(bits))
    return same or np.array_equal(back, values, equal_nan=True)


def write_dataset(
    url: str,
    data: xr.Dataset,
    attributes: Mapping[str, Any] | None = None,
    chunks: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write a small dataset whole, in place of what was there; the attributes come last.

    Raises
    ------
    NotFinite
        If it holds a NaN or an infinite number; nothing is written then.
    """
    for name, values in data.data_vars.items():
        refuse_not_finite(f"{name} of {url}", values.values)
    data.to_zarr(
        urls.zarr_store(url, read_only=False),
        mode="w",
        zarr_format=3,
        consolidated=False,
        encoding={name: {"chunks": shape} for name, shape in (chunks or {}).items()},
    )
    group = consolidate(urls.open_group(url, mode="r+"))
    group.attrs.update(dict(attributes or {}))


class Target:
    """An array that shards' rows are written to, whole.

    Parameters
    ----------
    url : str
        Of its group.
    group : zarr.Group
        Opened to be written to.
    name : str
    """

    def __init__(self, url: str, group: zarr.Group, name: str) -> None:
        array = group[name]
        if not isinstance(array, zarr.Array):
            raise TypeError(f"{name} is not an array")
        self._array, self._url = array, urls.join(url, name)
        # An object store takes far longer to answer than zarr to ask it.
        self._sharding = find_sharding(array.metadata.to_dict()) if urls.is_local(url) else None

    def write(self, start: int, values: NDArray, ok: NDArray[np.bool_] | None = None) -> None:
        """Write a shard's rows, read them back, and compare.

        Parameters
        ----------
        start : int
        values : (N, ...) ndarray
        ok : (N,) bool, optional
            Rows that hold values; the others are fill value. All hold values unless given.

        Raises
        ------
        NotFinite
            If a value is NaN or infinite; nothing is written then.
        OSError
            If other values are read back.
        """
        path, stop = self._array.path, start + len(values)
        refuse_not_finite(path, values, start, ok)
        if self._sharding is not None and self._sharding.holds(start, stop):
            back = self._by_file(self._sharding, start, values)
        else:
            self._array[start:stop] = values
            back = np.asarray(self._array[start:stop])
        if back is None or not _same(back, values):
            raise OSError(f"rows {start}-{stop - 1} of {path} read back otherwise")

    def _by_file(self, sharding: Sharding, start: int, values: NDArray) -> NDArray | None:
        """What is read back of a shard that is written without zarr; None if it is damaged."""
        folder, key = urls.join(self._url, CHUNKS), sharding.key(start)
        file = Path(urls.absolute(folder), key)
        if (content := sharding.encode(values)) is None:
            file.unlink(missing_ok=True)
        else:
            urls.put_chunk(folder, key, content)
        try:
            return sharding.decode(file.read_bytes() if file.exists() else None, len(values))
        except ValueError:
            return None


def open_dataset(url: str) -> xr.Dataset:
    """A zarr group as a lazy ``xarray.Dataset``, in blocks of its chunks."""
    store = urls.zarr_store(url, read_only=True)
    return xr.open_zarr(store, chunks={}, consolidated=True, zarr_format=3)


def open_images(url: str, images_per_block: int, consolidated: bool = True) -> xr.Dataset:
    """Arrays along the images as a lazy ``xarray.Dataset``, float16 read as float32.

    Parameters
    ----------
    url : str
        Of a zarr group.
    images_per_block : int
        Images of one dask block, which is one chunk along the other axes.
    consolidated : bool
        Whether the group holds the metadata of its arrays.
    """
    data = xr.open_zarr(
        urls.zarr_store(url, read_only=True),
        chunks=None,
        mask_and_scale=False,
        consolidated=consolidated,
        zarr_format=3,
    )
    blocks: dict[Any, int] = {}
    for variable in data.variables.values():
        for axis, size in variable.encoding.get("preferred_chunks", {}).items():
            blocks[axis] = min(size, blocks.get(axis, size))
        if variable.dtype == np.float16:
            # xarray decodes to the type of the factor, and no more than is then read.
            variable.attrs["scale_factor"] = np.float32(1)
    return xr.decode_cf(data).chunk({**blocks, "image": images_per_block})
