"""A view: what is found of a store that may only be read, kept at a place of its own.

The place holds ``store.json``, which says whose view it is, and everything that jobs find. Images,
contributions, model and ledger are read from the store. Whoever opens the place opens the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import ledger, urls
from .errors import Remedy, StoreError
from .layout import CONTRIBUTIONS
from .metadata import Metadata, own_metadata
from .records import of_json

PLACE = "store.json"


@dataclass(frozen=True)
class View:
    """What a view notes of its store.

    Attributes
    ----------
    store : str
        URL.
    facet : dict
        The store's metadata, as its JSON.
    until : float
        When the last of its shards was finished that the view may count, seconds since 1970.
    """

    store: str
    facet: dict[str, Any]
    until: float


def find_view(place: str) -> View | None:
    """What stands in a place's ``store.json``; None where there is none."""
    at = urls.join(place, PLACE)
    if not urls.exists(at):
        return None
    try:
        return of_json(View, json.loads(urls.read_bytes(at)), at)
    except ValueError as error:
        raise StoreError(f"{at} cannot be read: {error}") from error


def source(place: str) -> str | None:
    """The store that a place is a view of; None where it is none."""
    view = find_view(place)
    return None if view is None else view.store


def find_metadata(url: str) -> Metadata | None:
    """The metadata of the store at a URL, or of that which a view there is of.

    None where no store was ever finished being created.
    """
    return _find(url)[1]


def find(url: str) -> tuple[str, Metadata]:
    """Where the data are of the store that is opened by a URL, and its metadata.

    Raises
    ------
    StoreError
        If there is no store, or one whose creation was never finished.
    """
    url = urls.absolute(url)
    data, meta = _find(url)
    if meta is None:
        raise StoreError(f"no store at {url}", Remedy.first("extract", url))
    return data, meta


def _find(url: str) -> tuple[str, Metadata | None]:
    meta = own_metadata(url)
    if meta is not None or (data := source(url)) is None:
        return url, meta
    meta = own_metadata(data)
    if meta is None:
        raise StoreError(
            f"{url} holds what was found of the store at {data}, and that is gone: put it back"
        )
    return data, meta


def note(url: str, place: str, meta: Metadata, finished: Mapping[int, float]) -> None:
    """Have a place say that it is the view of a store, as that was when it was looked at.

    Parameters
    ----------
    url : str
        The store.
    place : str
    meta : Metadata
        Of the store.
    finished : mapping of int to float
        When its shards were finished: ``ledger.finished_at``, read before what the view may count.
    """
    until = max(finished.values(), default=0.0)
    text = json.dumps({"store": url, "facet": meta.to_json(), "until": until})
    urls.put_bytes(urls.join(place, PLACE), text.encode())


def make(url: str, place: str, meta: Metadata) -> None:
    """Have a place be the view of a store, which it may be already.

    Parameters
    ----------
    url : str
        The store.
    place : str
    meta : Metadata
        Of the store.

    Raises
    ------
    StoreError
        If the place is a store, or another's view, or cannot be written to.
    """
    if (other := source(url)) is not None:
        raise StoreError(
            f"{url} holds what was found of {other}: give that as the `store`, or leave `out` out"
        )
    if (other := source(place)) is None:
        if urls.exists(urls.join(place, CONTRIBUTIONS, "zarr.json")):
            raise StoreError(f"`out` {place} is a store itself: give {url} a place of its own")
    elif other != url:
        raise StoreError(
            f"`out` {place} holds what was found of {other}: give {url} a place of its own"
        )
    urls.check_writable(place, "out")
    if other is None:
        note(url, place, meta, ledger.finished_at(url))
