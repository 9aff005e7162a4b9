"""Lengthening a store: images appended to its list become further rows of every array.

Every step may be cut short and done again: the metadata, written last, alone says how many
images there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import zarr

from . import ledger, neurons, urls
from .arrays import consolidate
from .images import ListDigest, append_images, read_rows
from .layout import CONTRIBUTIONS, ROWS_PER_IMAGE_PART
from .metadata import Metadata
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
    group = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r+")
    for array in _image_arrays(group):
        array.resize((meta.images, *array.shape[1:]))
    group.attrs.update({"facet": meta.to_json()})
    consolidate(group)
    return open_store(store.url, mode="r+")


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
