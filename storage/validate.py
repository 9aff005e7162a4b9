"""Everything that can be wrong with a store, found in one walk and reported at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr

from . import images, ledger, urls
from .errors import StoreError
from .layout import CONTRIBUTIONS, MODEL, ArraySpec, contribution_arrays, model_arrays
from .metadata import Metadata


def faults(url: str, meta: Metadata) -> list[str]:
    """Every fault of a store, one line each; empty if it is sound and finished."""
    found = [*_group_faults(url, MODEL, model_arrays(meta))]
    found += _group_faults(url, CONTRIBUTIONS, contribution_arrays(meta))
    found += _image_table_faults(url, meta)
    done = ledger.done_shards(url)
    for shard in sorted(done - set(range(meta.shards))):
        found.append(f"ledger: {ledger.part_url(url, shard)} belongs to no shard of this store")
    if found:
        return found  # the shards cannot be read without their frame
    group = urls.open_group(urls.join(url, CONTRIBUTIONS), mode="r")
    for shard in range(meta.shards):
        start, stop = meta.rows(shard)
        if shard in done:
            found += _shard_faults(url, meta, group, shard)
        else:
            found.append(f"shard {shard} (images {start}-{stop - 1}): not finished")
    return found


def _group_faults(url: str, name: str, specs: list[ArraySpec]) -> Iterator[str]:
    try:
        group = urls.open_group(urls.join(url, name), mode="r")
    except StoreError as error:
        yield str(error)
        return
    for spec in specs:
        array = group.get(spec.name)
        if not isinstance(array, zarr.Array):
            yield f"{name}/{spec.name}: missing"
        elif (array.shape, array.metadata.dimension_names) != (spec.shape, spec.dims):  # type: ignore[union-attr]
            yield (
                f"{name}/{spec.name}: has axes {array.metadata.dimension_names} {array.shape}, "  # type: ignore[union-attr]
                f"the metadata asks for {spec.dims} {spec.shape}"
            )
        elif spec.dtype != "str" and array.dtype != np.dtype(spec.dtype):
            yield f"{name}/{spec.name}: is {array.dtype}, the metadata asks for {spec.dtype}"


def _image_table_faults(url: str, meta: Metadata) -> Iterator[str]:
    try:
        table = images.read_images(url).select(["index", "key"])
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        yield f"images: cannot be read: {error}"
        return
    if table.num_rows != meta.images:
        yield f"images: {table.num_rows} rows, the metadata says {meta.images}"
    elif not np.array_equal(table["index"], np.arange(meta.images)):
        yield "images: the index is not 0, 1, 2, …"
    repeated = table.num_rows - pc.count_distinct(table["key"]).as_py()
    if repeated:
        yield f"images: {repeated} keys occur twice"


def _shard_faults(url: str, meta: Metadata, group: zarr.Group, shard: int) -> Iterator[str]:
    start, stop = meta.rows(shard)
    where = f"shard {shard} (images {start}-{stop - 1})"
    try:
        rows = ledger.read_part(url, shard)
    except (OSError, pa.ArrowInvalid) as error:
        yield f"{where}: ledger part cannot be read: {error}"
        return
    if not np.array_equal(rows["index"], np.arange(start, stop)):
        yield f"{where}: the ledger part lists other images"
        return
    ok = np.asarray(rows["ok"])
    for spec in contribution_arrays(meta):
        try:
            values = np.asarray(group[spec.name][start:stop])  # type: ignore[index]
        except Exception as error:  # whatever a codec raises on damaged bytes is a finding here
            yield f"{where}: {spec.name} cannot be read: {error}"
            continue
        if spec.dtype == "str":
            continue
        finite = np.isfinite(values).reshape(stop - start, -1)
        if not finite[ok].all():
            lost = np.arange(start, stop)[ok][~finite[ok].all(1)]
            some = f"{lost[:5].tolist()} ({len(lost)} in all)"
            yield f"{where}: {spec.name} has no values for images {some}"
        if finite[~ok].any():
            yield f"{where}: {spec.name} has values for images that the ledger calls bad"
