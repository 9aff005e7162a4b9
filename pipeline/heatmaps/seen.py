"""A picture as a store's model sees it: resized and cropped, whether the store holds it or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.images.again import load_again
from pipeline.images.decode import decode
from pipeline.images.errors import BadImage, SourceUnavailable
from pipeline.images.resize import Resize
from storage import ledger, urls
from storage.errors import FacetError
from storage.metadata import Metadata
from storage.store import Store

# Of a picture that is not to be had.
GREY = 211


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as the model sees it.

    Attributes
    ----------
    name : str
        Its number and key in the store, or its file.
    image : int or None
        Its number, where the store holds it.
    finished : bool
        Whether the store has its contributions.
    pixels : (height, width, 3) uint8
    unreadable : str or None
        Why it is not to be had as it was; it is grey then.
    """

    name: str
    image: int | None
    finished: bool
    pixels: NDArray[np.uint8]
    unreadable: str | None = None


def resize_of(meta: Metadata) -> Resize:
    """What brings pictures to the model's input."""
    return Resize.of(meta.preprocessing)


def see_file(meta: Metadata, place: str, data: bytes) -> Seen:
    """A picture file, which can be read."""
    return Seen(place.rpartition("/")[2], None, False, resize_of(meta)(decode(data)))


def see_image(store: Store, index: int) -> Seen:
    """An image of a store; grey where it is not what it was, or not to be had.

    Raises
    ------
    FacetError
        If it was bad when it was extracted.
    """
    row = store.images(index, index + 1).to_pylist()[0]
    name = f"image {index}, {row['key']}"
    shard, at = divmod(index, store.meta.shard_size)
    finished = urls.exists(ledger.part_url(store.data, shard))
    if finished:
        was = ledger.read_part(store.data, shard).slice(at, 1).to_pylist()[0]
        if not was["ok"]:
            raise FacetError(f"`image` {index}: the store has nothing of it: {was['error']}")
    try:
        return Seen(name, index, finished, resize_of(store.meta)(load_again(store, index)))
    except (BadImage, SourceUnavailable) as error:
        grey = np.full((*store.meta.preprocessing["size"], 3), GREY, np.uint8)
        return Seen(name, index, finished, grey, str(error))
