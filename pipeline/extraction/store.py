"""The store that an extraction fills: what decides it; the one that stands, grown, or a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from pipeline.cluster.room import refuse_room
from pipeline.cluster.tasks import each
from pipeline.images.listing import list_images
from pipeline.images.rows import ListingReport
from pipeline.models import Architecture, ModelSpec, VisionModel, check_supported, model_maps
from pipeline.models.spec import WEIGHT_SUFFIXES
from pipeline.provenance import revision, versions
from pipeline.telling import SILENT, Teller
from storage.images import ListDigest, write_images
from storage.layout import bytes_per_image
from storage.metadata import Metadata, require_same
from storage.results import config_digest
from storage.store import Store, create_store, find_metadata, open_store
from storage.tail import TAIL
from storage.weights import remember

from .growth import KnownImages, append
from .plan import parse_layers
from .unchanged import sample, settle


@dataclass(frozen=True)
class StoreSpec:
    """What the user asked a store to hold.

    Attributes
    ----------
    images : str
        Where they are: see ``pipeline.images.sources``.
    model : ModelSpec
    components : tuple of str
        Of ``heads``, ``mlps`` and ``tokens``.
    layers : str
        Layers that tokens are summed over.
    precision, store_dtype : str
        Of the forward pass; of heads, mlps and tokens as they are kept.
    shard_size : int
        Images in one shard.
    limit : int or None
        Only so many images of the list.
    """

    images: str
    model: ModelSpec
    components: tuple[str, ...]
    layers: str
    precision: str
    store_dtype: str
    shard_size: int
    limit: int | None = None

    def metadata(
        self,
        architecture: Architecture,
        *,
        images: int,
        image_list_digest: str = "",
        weights_digest: str = "",
    ) -> Metadata:
        """The identity of the store; without digests, of one that is only planned."""
        name, pretrained = self.model.model, self.model.pretrained
        tokens = "tokens" in self.components
        return Metadata(
            architecture=name,
            architecture_digest=config_digest(architecture.config),
            weights=f"none:{self.model.seed}"
            if pretrained == "none"
            else pretrained.rsplit("/", 1)[-1],
            weights_digest=weights_digest,
            activation=architecture.activation,
            preprocessing=architecture.preprocess.identity(),
            precision=self.precision,
            store_dtype=self.store_dtype,
            components=tuple(sorted(set(self.components))),
            token_layers=parse_layers(self.layers, architecture.layers) if tokens else (),
            image_list_digest=image_list_digest,
            images=images,
            shard_size=self.shard_size,
            layers=architecture.layers,
            heads=architecture.heads,
            head_dim=architecture.head_dim,
            width=architecture.width,
            mlp_width=architecture.mlp_width,
            embed=architecture.embed_dim,
            tokens=architecture.tokens,
            grid=architecture.grid,
            prefix=architecture.prefix,
            source=self.images,
            versions=versions(),
            revision=revision(),
        )


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
    report, digest = ListingReport(), ListDigest()
    list_source = partial(list_images, spec.images, limit=spec.limit, mapper=each)
    tables = digest.through(list_source(report=report))

    def describe() -> Metadata:
        return spec.metadata(
            architecture,
            images=digest.rows,
            image_list_digest=digest.hexdigest(),
            weights_digest=model.weights_digest,
        )

    if existing is not None:
        store = same_or_grown(url, existing, tables, describe, list_source, teller)
        _remember_weights(store, spec)
        return store, report
    with teller.wait("listing images"):
        write_images(url, tables)
    meta = describe()
    check_room(url, meta)
    maps = {name: getattr(model_maps(model), name) for name in (term.map for term in TAIL)}
    store = create_store(url, meta, maps)
    _remember_weights(store, spec)
    return store, report


def _remember_weights(store: Store, spec: StoreSpec) -> None:
    """So that whoever needs the model later finds them."""
    if store.meta.weights.endswith(WEIGHT_SUFFIXES):
        remember(store.url, spec.model.pretrained)


def same_or_grown(
    url: str,
    existing: Metadata,
    tables: Iterable[pa.Table],
    describe: Callable[[], Metadata],
    list_source: Callable[[], Iterator[pa.Table]],
    teller: Teller = SILENT,
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
            place="`store`", must_read=bool(new or images_left(store)), mapper=each,
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


def refuse_other_model(
    url: str, existing: Metadata, model: str | None, pretrained: str | None
) -> None:
    """Refuse a store of another model than the one asked for, before anything is loaded.

    Parameters
    ----------
    url : str
    existing : Metadata
        Of the store.
    model, pretrained : str or None
        As asked for; None: whatever the store has. A file says only once it is loaded whether it
        holds the store's weights.
    """
    asked = existing
    if model is not None:
        found = check_supported(ModelSpec(model, pretrained or "none"))
        asked = replace(asked, architecture=model, architecture_digest=config_digest(found.config))
    if pretrained is not None and not pretrained.endswith(WEIGHT_SUFFIXES):
        same = pretrained == "none" and existing.weights.startswith("none:")
        asked = replace(asked, weights=existing.weights if same else pretrained)
    require_same(existing, asked, url)


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
