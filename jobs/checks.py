"""What jobs refuse before anything is loaded, told from settings, files and a store's tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from pipeline.subsets import check_where
from pipeline.texts.classes import Classes
from pipeline.texts.labels import refuse_labels
from pipeline.texts.towers import refuse_store_without_texts
from storage import urls, views
from storage.errors import Remedy, StoreError
from storage.metadata import Metadata
from storage.tables import StoreTables, open_tables

Config = TypeVar("Config")


def look(
    store: str, planned: Metadata | None, texts: bool = False
) -> tuple[StoreTables | None, Metadata]:
    """What is known of a store before any array is read.

    Parameters
    ----------
    store : str
    planned : Metadata or None
        Of a store that is still to be made: then nothing is known but that.
    texts : bool
        Whether texts are embedded with its model.

    Raises
    ------
    StoreError
        If there is no store, or one of which nothing is finished.
    FacetError
        If texts are, and the model has no text tower.
    """
    if planned is not None:
        if texts:
            refuse_store_without_texts(store, planned)
        return None, planned
    tables = open_tables(store)
    if not tables.done_shards():
        raise StoreError(f"no shard of {store} is finished", Remedy.first("extract", store))
    if texts:
        refuse_store_without_texts(store, tables.meta)
    return tables, tables.meta


def refuse_conditions(tables: StoreTables | None, **conditions: str | None) -> None:
    """Refuse conditions that the image table does not fit; settings by name."""
    if tables is not None:
        for setting, where in conditions.items():
            check_where(tables, where, setting)


def refuse_classes(
    tables: StoreTables | None, where: str | None, column: str, classes: Classes
) -> None:
    """Refuse labels that are no class."""
    if tables is not None:
        refuse_labels(tables, where, column, classes)


def at_place(config: Config, setting: str = "store") -> Config:
    """The configuration, with as its store the place where what is found is kept.

    That is the store itself, or ``out``, which becomes a view of it. Nothing can go wrong at it
    later but what goes wrong with disks.

    Parameters
    ----------
    config : dataclass instance
    setting : str
        Which of its settings is the store.
    """
    given: Any = config
    url = urls.absolute(getattr(given, setting))
    if given.out is None:
        urls.check_writable(url, also="keep what is found elsewhere, at `out` URL")
        return config
    place = urls.absolute(given.out)
    views.make(url, place, views.find(url)[1])
    return replace(given, **{setting: place, "out": None})
