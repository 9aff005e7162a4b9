"""Columns of a store's image table as numbers of their values, to colour and to count by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.explorer.library import NotHere, Opened
from storage import images

# What says where an image is, and not what it is of.
PLACES = {"index", "key", "uri", "offset", "length", "row_origin", "mask"}
# A column with more values than this says something else of every image.
MOST_VALUES = 5_000


@dataclass(frozen=True, eq=False)
class Column:
    """A column of the image table.

    Attributes
    ----------
    name : str
    codes_n : (images,) int32
        Each image's place in ``values``; -1 where it is missing.
    values : tuple
        Rising; none where there are more than ``MOST_VALUES``, and no codes either.
    is_number : bool
        Whether they are numbers, and not texts or yes and no.
    """

    name: str
    codes_n: NDArray[np.int32]
    values: tuple[object, ...]
    is_number: bool

    @property
    def too_many(self) -> bool:
        """Whether it says something else of every image, so that nothing is counted by it."""
        return not len(self.codes_n)


def names(here: Opened) -> tuple[str, ...]:
    """Columns that say what images are of."""
    found: pa.Schema = here.cached("schema", lambda: here.store.images(0, 1).schema)
    flat = (f for f in found if not pa.types.is_nested(f.type) and not pa.types.is_binary(f.type))
    return tuple(field.name for field in flat if field.name not in PLACES)


def column(here: Opened, name: str) -> Column:
    """A column, read once.

    Raises
    ------
    NotHere
        If there is no such column, or it does not say what images are of.
    """
    if name not in names(here):
        raise NotHere(f"no column {name[:40]!r} to choose: there are {', '.join(names(here))}")
    found: Column = here.cached(("column", name), lambda: _read(here, name))
    return found


def _read(here: Opened, name: str) -> Column:
    values = images.read_columns(here.store.data, [name])[name]
    kind = values.type
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    coded = values.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    kept = coded.dictionary
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if len(kept) > MOST_VALUES:
        return Column(name, np.zeros(0, np.int32), (), is_number)
    order = pc.sort_indices(kept)
    place = np.full(len(kept) + 1, -1, np.int32)
    place[np.asarray(order)] = np.arange(len(kept))
    codes = coded.indices.fill_null(len(kept)).to_numpy(zero_copy_only=False)
    return Column(name, place[codes], tuple(kept.take(order).to_pylist()), is_number)


def said(here: Opened, image: int) -> str:
    """What stands below an image: its label, or its number."""
    labels = column(here, "label")
    code = int(labels.codes_n[image]) if len(labels.values) else -1
    return str(labels.values[code]) if code >= 0 else f"image {image}"
