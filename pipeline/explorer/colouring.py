"""By what a map's points are coloured: a column of the image table, with its legend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.cloud_picture import Colouring
from pipeline.explorer.colours import CATEGORIES, OTHER, SEQUENTIAL, as_hex
from pipeline.explorer.columns import Column, column
from pipeline.explorer.library import Opened
from storage.errors import FacetError

# Of a column of numbers with more values than categories have colours, so many steps of amounts.
STEPS = 64
# Of the table of amounts, the first that is told from a picture's ground.
FIRST = 64


def chosen(here: Opened, name: str) -> Column:
    """A column that points can be coloured by.

    Raises
    ------
    NotHere
        If there is no such column.
    FacetError
        If it says something else of every image.
    """
    known = column(here, name)
    if known.too_many:
        raise FacetError(f"{name} has too many values to be told apart by colours: choose another")
    if not known.values:
        raise FacetError(f"no image has a {name}: choose another column")
    return known


def amounts(known: Column) -> bool:
    """Whether a column is shown as amounts."""
    return known.is_number and len(known.values) > len(CATEGORIES) + 1


def colouring(here: Opened, name: str) -> Colouring:
    """The colours of a column: amounts as amounts, in quantiles; of anything else the commonest
    values each their own, and one for all others."""
    known = chosen(here, name)
    found: Colouring = here.cached(("colouring", name), lambda: _made(known))
    return found


def _made(known: Column) -> Colouring:
    if amounts(known):
        step, colours = steps(known)
        codes = np.append(step, -1)[known.codes_n]
        return Colouring(codes.astype(np.int16), colours, True)
    rank = np.full(len(known.values) + 1, len(CATEGORIES), np.int16)
    first = commonest(known)
    rank[first] = np.arange(len(first))
    rank[-1] = -1
    return Colouring(rank[known.codes_n], np.array([_rgb(c) for c in (*CATEGORIES, OTHER)]), False)


def commonest(known: Column) -> NDArray[np.int64]:
    """The values that most images have, as many as there are colours; the commonest first."""
    counts = np.bincount(known.codes_n[known.codes_n >= 0], minlength=len(known.values))
    return np.argsort(-counts, kind="stable")[: len(CATEGORIES)]


def steps(known: Column) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """A step of amounts for every value, so that each has about as many images, and the colours."""
    counts = np.bincount(known.codes_n[known.codes_n >= 0], minlength=len(known.values))
    before = np.cumsum(counts) - counts / 2
    step = np.minimum(STEPS * before / max(counts.sum(), 1), STEPS - 1).astype(np.int64)
    return step, SEQUENTIAL[np.linspace(FIRST, 255, STEPS).astype(int)]


def _rgb(colour: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def legend(here: Opened, name: str) -> tuple[tuple[str, str], ...]:
    """Colours with what has them."""
    known = chosen(here, name)
    if amounts(known):
        step, colours = steps(known)
        at = [int(np.searchsorted(step, s)) for s in np.linspace(0, step[-1], 5).astype(int)]
        return tuple((as_hex(colours[step[i]]), str(known.values[i])) for i in dict.fromkeys(at))
    first = commonest(known)
    told = [(CATEGORIES[i], str(known.values[v])) for i, v in enumerate(first)]
    return (*told, (OTHER, "all others")) if len(known.values) > len(first) else tuple(told)
