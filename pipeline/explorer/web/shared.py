"""Units that models share: the list of concepts, one of them, and pictures of where units fire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Response
from PIL import Image

from pipeline.explorer.library import NotHere
from pipeline.explorer.shared import (
    ConceptView,
    SharedUnits,
    concept_view,
    examples,
    shared_units,
)
from pipeline.explorer.web.views import Lib, Png, Units, view
from pipeline.pages.pictures import as_png, heat, small

router = APIRouter()

Part = TypeVar("Part")


@view(router, "/r/{rosetta}", "shared.html")
def concepts(units: Units, after: Annotated[int, Query(ge=0)] = 0) -> SharedUnits:
    """Concepts that all models share, and what inversions through them found."""
    return shared_units(units, after)


@view(router, "/r/{rosetta}/concept/{number}", "concept.html")
def concept(library: Lib, units: Units, number: int, maps: bool = False) -> ConceptView:
    """One concept: its unit in every model, and where they fire on the same images."""
    return concept_view(library, units, number, maps)


@router.get("/r/{rosetta}/concept/{number}/example/{at}.png", response_class=Png)
def example(library: Lib, units: Units, number: int, at: int) -> Response:
    """An image on which the hub's unit is among its strongest."""
    found = examples(library, units, number)
    return Png(as_png(small(_of(found.pixels, at, "examples"))))


@router.get("/r/{rosetta}/concept/{number}/example/{at}/map/{member}.png", response_class=Png)
def example_map(library: Lib, units: Units, number: int, at: int, member: int) -> Response:
    """The same image under the map of one model's unit; member 0 is the hub's."""
    found = examples(library, units, number)
    pixels = _of(found.pixels, at, "examples")
    plane = _of(list(_of(found.maps, member, "models")), at, "examples")
    return Png(as_png(heat(pixels, plane, Image.Resampling.BILINEAR)))


def _of(parts: Sequence[Part], at: int, what: str) -> Part:
    if not 0 <= at < len(parts):
        raise NotHere(f"there are {len(parts)} {what}")
    return parts[at]
