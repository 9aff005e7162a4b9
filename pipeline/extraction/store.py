"""The store that an extraction fills: what decides it; the one that stands, grown, or a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.cluster.room import refuse_room
from pipeline.cluster.tasks import each, listed
from pipeline.images.listing import list_images
from pipeline.images.rows import ListingReport
from pipeline.models import Architecture
from pipeline.models.checkpoint import WEIGHT_SUFFIXES
from pipeline.telling import SILENT, Teller
from storage.images import ListDigest, write_images
from storage.layout import bytes_per_image, model_arrays
from storage.metadata import Metadata, require_same
from storage.store import Store, create_store, open_store
from storage.views import find_metadata
from storage.weights import remember

from .growth import KnownImages, append
from .spec import StoreSpec
from .unchanged import sample, settle

if TYPE_CHECKING:
    from pipeline.models import VisionModel


def open_or_create(
    url: str,
    spec: StoreSpec,
    architecture: Architecture,
    model: VisionModel,
    teller: Teller = SILENT,
) -> tuple[Store, ListingReport]:
    """The store that was asked for: the one that stands, if it is the same, or a new one.

    Returns
    -------
    store : Store
        Opened ``r+``.
    report : ListingReport
        What became of the source's files.

    Raises
    ------
    StoreMismatch
        If the one that stands is of other settings, or its images are not those of the source.
    FacetError
        If the disk cannot hold it.
    """
    existing = find_metadata(url)
    list_source = partial(
        list_images, spec.images, limit=spec.limit, mapper=partial(listed, teller.say)
    )
    tables, describe, report = as_listed(list_source, spec, architecture, model.weights_digest)
    if existing is not None:
        store = same_or_grown(url, existing, tables, describe, list_source, teller)
        _remember_weights(store, architecture)
        return store, report
    with teller.wait("listing images"):
        write_images(url, tables)
    meta = describe()
    check_room(url, meta)
    from pipeline.models import model_maps  # brings torch, which a store that stands does without

    whole = model_maps(model)
    maps = {spec.name: getattr(whole, spec.name) for spec in model_arrays(meta)}
    store = create_store(url, meta, maps)
    _remember_weights(store, architecture)
    return store, report


def as_listed(
    list_source: Callable[..., Iterator[pa.Table]],
    spec: StoreSpec,
    architecture: Architecture,
    weights_digest: str,
) -> tuple[Iterator[pa.Table], Callable[[], Metadata], ListingReport]:
    """A source as it is listed now, and what that makes of the store that is asked for.

    Returns
    -------
    tables : iterator of pyarrow.Table
    describe : callable
        The store's metadata; called once ``tables`` is at its end.
    report : ListingReport
        What became of the source's files.
    """
    report, digest = ListingReport(), ListDigest()

    def describe() -> Metadata:
        return spec.metadata(
            architecture,
            images=digest.rows,
            image_list_digest=digest.hexdigest(),
            weights_digest=weights_digest,
        )

    return digest.through(list_source(report=report)), describe, report


def _remember_weights(store: Store, architecture: Architecture) -> None:
    """So that whoever needs the model later finds them, or need not read them again."""
    if isinstance(architecture.checkpoint, Path):
        remember(store.url, architecture.checkpoint)


def same_or_grown(
    url: str,
    existing: Metadata,
    tables: Iterable[pa.Table],
    describe: Callable[[], Metadata],
    list_source: Callable[[], Iterator[pa.Table]],
    teller: Teller = SILENT,
    mapper: Callable[..., Iterable[Any]] = each,
) -> Store:
    """The store that stands, with the images appended that its source has gained since.

    Parameters
    ----------
    url : str
    existing : Metadata
        Of the store that stands.
    tables : iterable of pyarrow.Table
        The source as it is listed now.
    describe : callable
        The metadata that is asked for; called once ``tables`` is at its end.
    list_source : callable
        Lists the source once more.
    teller : Teller
    mapper : callable
        ``map``, or one like it, to read images again in parallel.
    """
    known = KnownImages(url, existing.images, sample(url, existing.images, existing.shard_size))
    with teller.wait("listing images"):
        new = sum(table.num_rows for table in known.new(tables))
    meta = _by_content(existing, describe())
    listed = replace(existing, images=meta.images, image_list_digest=meta.image_list_digest)
    require_same(listed, meta, url)
    store = open_store(url, mode="r+")
    with teller.wait("reading images again"):
        notes = settle(
            url, existing.images, existing.shard_size, known, meta.source,
            place="`store`", must_read=bool(new or images_left(store)), mapper=mapper,
        )  # fmt: skip
    for note in notes:
        teller.say(note)
    if not new:
        return store
    teller.say(f"{new:,} new images: appended to the {existing.images:,} of the store")
    check_room(url, replace(existing, images=new))
    return append(store, KnownImages(url, existing.images).new(list_source()))


def _by_content(existing: Metadata, wanted: Metadata) -> Metadata:
    """What is asked for: a weights file is known by what it holds, whatever it is called now."""
    files = all(meta.weights.endswith(WEIGHT_SUFFIXES) for meta in (existing, wanted))
    if files and wanted.weights_digest == existing.weights_digest:
        return replace(wanted, weights=existing.weights)
    return wanted


def check_room(url: str, meta: Metadata) -> None:
    """Refuse a store that the disk cannot hold."""
    refuse_room(
        url,
        meta.images * bytes_per_image(meta),
        "choose another `store`, fewer `components` or a `limit` of images",
    )


def images_left(store: Store) -> int:
    """Images whose shard the ledger lacks."""
    missing = set(range(store.meta.shards)) - store.done_shards()
    return sum(stop - start for start, stop in map(store.meta.rows, missing))
