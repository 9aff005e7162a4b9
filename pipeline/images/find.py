"""The picture that is meant: an image of a store by its key or its number, or a file."""

from __future__ import annotations

import difflib

from storage import urls
from storage.errors import FacetError
from storage.images import read_keys
from storage.tables import StoreTables

from .decode import decode
from .errors import BadImage


def find_image(store: StoreTables, asked: str) -> int:
    """The number of an image.

    Parameters
    ----------
    store : StoreTables
    asked : str
        Its key; or, where no image has that key, its number.

    Raises
    ------
    FacetError
        If there is no such image; the nearest key is named.
    """
    first: list[str] = []
    for part in read_keys(store.data):
        keys = part["key"].to_pylist()
        if asked in keys:
            return int(part["index"][keys.index(asked)].as_py())
        first = first or keys  # to compare with millions would take minutes
    if asked.isdecimal() and int(asked) < store.meta.images:
        return int(asked)
    near = difflib.get_close_matches(asked, first, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise FacetError(
        f"`image` {asked!r}: no image of {store.url} has this key{hint}; by number, its images "
        f"are 0-{store.meta.images - 1}"
    )


def read_picture(place: str) -> bytes:
    """A picture file's bytes, once it is known that they hold a picture.

    Raises
    ------
    FacetError
        If there is no such file, or none that can be read.
    """
    url = urls.absolute(place)
    try:
        data = urls.read_bytes(url)
        decode(data)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FacetError(f"`picture` {place}: there is no such file") from error
    except BadImage as error:
        raise FacetError(f"`picture` {place} cannot be read: {error}") from error
    return data
