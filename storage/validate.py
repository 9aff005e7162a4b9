"""Everything that can be wrong with a store, found in one walk and reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr

from . import head_index, images, ledger, neurons, urls
from .errors import StoreError
from .layout import (
    CONTRIBUTIONS,
    INDEX,
    MODEL,
    ArraySpec,
    contribution_arrays,
    index_array,
    model_arrays,
)
from .metadata import Metadata

# Reads rows of the image table again: of each its sha256, or None and why it cannot be read.
ReadAgain = Callable[[pa.Table], Sequence[tuple[str | None, str | None]]]
SHOWN = 3


def faults(
    url: str, meta: Metadata, sources: ReadAgain | None = None, *, kept: str | None = None
) -> list[str]:
    """Every fault of a store, one line each; empty if it is sound and finished.

    ``kept`` is where its neurons and its index are, unless they are in the store itself.
    """
    kept = kept or url
    found = [*_group_faults(url, MODEL, model_arrays(meta))]
    found += _group_faults(url, CONTRIBUTIONS, contribution_arrays(meta))
    found += _image_table_faults(url, meta)
    done = ledger.done_shards(url)
    for shard in sorted(done - set(range(meta.shards))):
        found.append(f"ledger: {ledger.part_url(url, shard)} belongs to no shard of this store")
    for layer in neurons.kept_layers(kept):
        name = urls.join(CONTRIBUTIONS, neurons.NEURONS, str(layer))
        specs = neurons.neuron_arrays(meta, layer, neurons.kept(kept, layer))
        found += _group_faults(kept, name, list(specs.values()))
    if found:
        return found  # the shards cannot be read without their frame
    group = urls.open_group(urls.join(url, MODEL), mode="r")
    for spec in model_arrays(meta):
        yes = np.ones(spec.shape[0], bool)
        found += _row_faults(group, spec.name, 0, len(yes), yes, MODEL, "rows")
    group = urls.open_group(urls.join(url, CONTRIBUTIONS), mode="r")
    for shard in range(meta.shards):
        start, stop = meta.rows(shard)
        if shard in done:
            wrong = list(_shard_faults(url, meta, group, shard))
            if sources is not None and not wrong:
                wrong = list(_source_faults(url, meta, shard, sources))
            found += wrong
        else:
            found.append(f"shard {shard} (images {start}-{stop - 1}): not finished")
    for layer in neurons.kept_layers(kept):
        for quantity in neurons.kept(kept, layer):
            found += _neuron_faults(kept, meta, layer, quantity)
    return [*found, *_index_faults(url, meta, kept, done)]


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


def _neuron_faults(url: str, meta: Metadata, layer: int, quantity: str) -> Iterator[str]:
    group: Any = urls.open_group(neurons.group_url(url, layer), mode="r")
    finished = neurons.done(url, layer, quantity)
    for shard in range(meta.shards):
        where = f"neurons of MLP layer {layer}, shard {shard}"
        if shard not in finished:
            yield f"{where}: {quantity} not finished"
            continue
        start, stop = meta.rows(shard)
        rows = ledger.read_part(url, shard, neurons.folder(url, layer, quantity))
        yield from _row_faults(group, quantity, start, stop, np.asarray(rows["ok"]), where)


def _index_faults(url: str, meta: Metadata, kept: str, done: set[int]) -> Iterator[str]:
    """Parts of the index that are of another store, lack shards, or have lost rows."""
    parts = head_index.all_parts(kept)
    ok = _ok(url, meta, done) if parts else None
    for part, facts in parts.items():
        where = f"{INDEX}/{part}"
        if isinstance(facts, StoreError):
            yield str(facts)
        elif facts.store != meta.digest():
            yield f"{where}: of another store than this one, or of what it was before"
        elif lacking := done - facts.counted():
            yield f"{where}: lacks {len(lacking)} of {len(done)} finished shards"
        else:
            frame = list(_group_faults(kept, INDEX, [index_array(meta, part)]))
            yield from frame
            if not frame:
                group = urls.open_group(urls.join(kept, INDEX), mode="r")
                yield from _row_faults(group, part, 0, meta.images, ok, INDEX)


def _ok(url: str, meta: Metadata, done: set[int]) -> np.ndarray | None:
    """Which images are ok; None where some shards' ledger parts are not there or are damaged."""
    if len(done) < meta.shards:
        return None
    ok = np.zeros(meta.images, bool)
    try:
        for shard in range(meta.shards):
            ok[slice(*meta.rows(shard))] = ledger.read_part(url, shard)["ok"]
    except (OSError, StoreError):  # which is said of the shard
        return None
    return ok


def _shard_faults(url: str, meta: Metadata, group: zarr.Group, shard: int) -> Iterator[str]:
    start, stop = meta.rows(shard)
    where = f"shard {shard} (images {start}-{stop - 1})"
    try:
        rows = ledger.read_part(url, shard)
    except (OSError, StoreError) as error:
        yield f"{where}: ledger part cannot be read: {error}"
        return
    if not np.array_equal(rows["index"], np.arange(start, stop)):
        yield f"{where}: the ledger part lists other images"
        return
    ok = np.asarray(rows["ok"])
    for spec in contribution_arrays(meta):
        text = spec.dtype == "str"
        yield from _row_faults(group, spec.name, start, stop, None if text else ok, where)


def _source_faults(url: str, meta: Metadata, shard: int, sources: ReadAgain) -> Iterator[str]:
    """Images whose encoded bytes are no longer those that the ledger has the sha256 of."""
    start, stop = meta.rows(shard)
    rows = images.read_rows(url, start, stop)
    kept = ledger.read_part(url, shard)["sha256"]
    had = kept.is_valid()  # of some bad images nothing could be read
    rows, kept = rows.filter(had), kept.filter(had).to_pylist()
    keys, again = rows["key"].to_pylist(), sources(rows)
    changed, gone = [], []
    for key, was, (sha256, why) in zip(keys, kept, again, strict=True):
        if why is not None:
            gone.append(f"{key}: {why}")
        elif sha256 != was:
            changed.append(key)
    for found, what in ((changed, "have other contents"), (gone, "cannot be read again")):
        if found:
            yield (
                f"shard {shard} (images {start}-{stop - 1}): {len(found)} images of the source "
                f"{what} ({', '.join(found[:SHOWN])})"
            )


def _row_faults(
    group: zarr.Group,
    name: str,
    start: int,
    stop: int,
    ok: np.ndarray | None,
    where: str,
    what: str = "images",
) -> Iterator[str]:
    """Rows that cannot be read or, unless they are texts, are not there just where ok."""
    array: Any = group[name]
    step = (array.shards or array.chunks)[0]  # what is read whole anyhow
    for first in range(start, stop, step):
        at = slice(first, min(first + step, stop))
        try:
            values = np.asarray(array[at])
        except Exception as error:  # whatever a codec raises on damaged bytes is a finding here
            yield f"{where}: {name} cannot be read: {error}"
            return
        if ok is None:
            continue
        good = ok[at.start - start : at.stop - start]
        finite = np.isfinite(values).reshape(len(values), -1)
        if not finite[good].all():
            lost = np.arange(at.start, at.stop)[good][~finite[good].all(1)]
            some = f"{lost[:5].tolist()} ({len(lost)} in all)"
            yield f"{where}: {name} has no values for {what} {some}"
        if finite[~good].any():
            yield f"{where}: {name} has values for images that the ledger calls bad"
