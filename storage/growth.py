"""Lengthening a store: images appended to its list become further rows of every array.

A view of a store follows it.

Every step may be cut short and done again: the metadata, written last, alone says how many
images there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import zarr

from . import head_index, ledger, neurons, urls, views
from .arrays import consolidate
from .errors import StoreError
from .images import ListDigest, append_images, read_rows
from .layout import CONTRIBUTIONS, ROWS_PER_IMAGE_PART
from .metadata import Metadata, parse
from .reductions import all_reductions, subset_url
from .store import Store, open_store


def short_shard(meta: Metadata) -> int | None:
    """The last shard, if images are missing in it: more images mean that it is done again."""
    return meta.shards - 1 if meta.images % meta.shard_size else None


def grow(store: Store, tables: Iterable[pa.Table]) -> Store:
    """Append images to a store.

    Parameters
    ----------
    store : Store
        Opened ``r+``.
    tables : iterable of pyarrow.Table
        Image rows, in order, with whatever ``index``; at least one row in all.

    Returns
    -------
    Store
        The same place with its new metadata; the ledger lacks the new shards, and the last of
        the old ones where that was short.
    """
    added = append_images(store.url, store.meta.images, tables)
    digest = ListDigest()
    for table in _image_tables(store.url, store.meta.images + added):
        digest.update(table)
    meta = replace(store.meta, images=digest.rows, image_list_digest=digest.hexdigest())
    shard = short_shard(store.meta)
    if shard is not None:
        urls.remove(ledger.part_url(store.url, shard))
        neurons.forget_shards(store.url, {shard})
        head_index.forget_shards(store.url, store.meta, {shard})
    group = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r+")
    _lengthen(group, meta.images)
    group.attrs.update({"facet": meta.to_json()})
    consolidate(group)
    head_index.carry_over(store.url, store.meta, meta)
    return open_store(store.url, mode="r+")


def follow(store: Store) -> None:
    """Have a view forget what its store no longer is: that may have grown, or been mended.

    Whoever works with a view begins with this; nothing is changed in what is no view. Shards that
    were done again since the view was worked with last count as not looked at.

    Raises
    ------
    StoreError
        If another store stands where the view's stood.
    """
    view = None if store.data == store.url else views.find_view(store.url)
    if view is None:
        return
    before = parse(view.facet)
    listed = replace(
        before, images=store.meta.images, image_list_digest=store.meta.image_list_digest
    )
    if listed.digest() != store.meta.digest() or before.images > store.meta.images:
        raise StoreError(
            f"{store.url} holds what was found of another store than the one that is at "
            f"{store.data} now: choose another place"
        )
    times = ledger.finished_at(store.data)
    again = {s for s in range(store.meta.shards) if times.get(s, math.inf) > view.until}
    if again:
        for found in all_reductions(store.url, store.meta):
            if any(again & found.facts.counted(component) for component in found.facts.shards):
                urls.remove(subset_url(store.url, found.facts.where))
        neurons.forget_shards(store.url, again)
        head_index.forget_shards(store.url, store.meta, again)
    if store.meta.images > before.images:
        head_index.carry_over(store.url, before, store.meta)
    if store.meta.images > before.images and neurons.kept_layers(store.url):
        group = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r+")
        _lengthen(group, store.meta.images)
        consolidate(group)
    views.note(store.data, store.url, store.meta, times)


def _lengthen(group: zarr.Group, images: int) -> None:
    """Give every array along the images room for so many."""
    for array in _image_arrays(group):
        array.resize((images, *array.shape[1:]))


def _image_tables(url: str, images: int) -> Iterator[pa.Table]:
    """The image table, a part at a time."""
    for start in range(0, images, ROWS_PER_IMAGE_PART):
        yield read_rows(url, start, min(start + ROWS_PER_IMAGE_PART, images))


def _image_arrays(group: zarr.Group) -> Iterator[zarr.Array]:
    """Every array along the images, in the groups below too."""
    for _, member in group.members(max_depth=None):
        if isinstance(member, zarr.Array):
            names = member.metadata.dimension_names  # type: ignore[union-attr]
            if names and names[0] == "image":
                yield member
