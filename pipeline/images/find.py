"""The picture that is meant: an image of a store by its key or its number, or a file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

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
    return find_images(store, [asked])[0]


def find_images(store: StoreTables, asked: Sequence[str]) -> list[int]:
    """Numbers of images, as `find_image` has them; the keys are gone through once."""
    wanted, found = pa.array(asked, pa.string()), dict[str, int]()
    first: list[str] = []
    for part in read_keys(store.data):
        keys = part["key"].combine_chunks()
        rows = pc.index_in(wanted, value_set=keys).to_pylist()
        for key, row in zip(asked, rows, strict=True):
            if row is not None:
                found.setdefault(key, part["index"][row].as_py())
        if len(found) == len(set(asked)):
            break
        first = first or keys.to_pylist()  # to compare with millions would take minutes
    return [found[key] if key in found else _by_number(store, key, first) for key in asked]


def _by_number(store: StoreTables, asked: str, keys: Sequence[str]) -> int:
    """The image that has a number; ``keys`` are some that there are."""
    if asked.isdecimal() and int(asked) < store.meta.images:
        return int(asked)
    near = difflib.get_close_matches(asked, keys, n=1)
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
