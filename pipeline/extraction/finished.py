"""An extraction that was finished before, told without a model: no torch, no Ray."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.images.listing import list_images
from pipeline.images.rows import ListingReport
from pipeline.models.names import OWN
from pipeline.models.spec import Architecture, check_supported
from pipeline.provenance import versions
from pipeline.telling import Teller
from storage import ledger
from storage.metadata import Metadata, own_metadata
from storage.store import Store
from storage.weights import holds

from .spec import StoreSpec
from .store import as_listed, images_left, same_or_grown

# Images whose source one process lists in seconds: more are work for a cluster.
FEW = 100_000


def find_finished(url: str, spec: StoreSpec, teller: Teller) -> tuple[Store, ListingReport] | None:
    """The store that was asked for, where nothing is left to do; None where that is not certain.

    The source is listed, and a sample of its images read again, as whenever a run meets a store.
    What it has gained is appended.

    Raises
    ------
    StoreMismatch
        If the store is of other settings, or its images are not those of the source.
    """
    existing = own_metadata(url)
    if existing is None or existing.images > FEW:
        return None
    if len(ledger.done_shards(url)) < existing.shards:
        return None
    architecture = check_supported(spec.model)
    if not _same_weights(url, existing, spec, architecture):
        return None
    list_source = partial(list_images, spec.images, limit=spec.limit)
    tables, describe, report = as_listed(list_source, spec, architecture, existing.weights_digest)
    store = same_or_grown(url, existing, tables, describe, list_source, teller, map)
    return None if images_left(store) else (store, report)


def _same_weights(
    url: str, existing: Metadata, spec: StoreSpec, architecture: Architecture
) -> bool:
    """Whether the weights that are asked for are the store's, as far as no model need tell."""
    if isinstance(architecture.checkpoint, Path):
        return holds(url, architecture.checkpoint)
    if spec.model.pretrained == OWN:  # a repository of the hub may hold others by now
        return False
    # A tag names weights whose address a library knows, a seed those that torch draws.
    made, now = existing.versions, versions()
    if any(made.get(name) != now[name] for name in ("torch", "open_clip_torch")):
        return False
    return spec.weights == existing.weights
