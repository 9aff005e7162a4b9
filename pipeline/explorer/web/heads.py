"""Heads, their maps, and the properties that they carry."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from pipeline.explorer.cloud import cloud
from pipeline.explorer.cloud_picture import draw
from pipeline.explorer.colouring import colouring
from pipeline.explorer.head_map import MapView, box_of, map_view
from pipeline.explorer.head_rows import head_of
from pipeline.explorer.heads import HeadView, head_view
from pipeline.explorer.library import NotHere
from pipeline.explorer.properties import Properties, PropertyView, properties, property_view
from pipeline.explorer.web.views import Here, Lib, Png, view

router = APIRouter()

Pixels = Annotated[int, Query(ge=16, le=2048)]
Bounds = tuple[float | None, float | None, float | None, float | None]


def bounded(
    x0: float | None = None,
    x1: float | None = None,
    y0: float | None = None,
    y1: float | None = None,
) -> Bounds:
    """Which part of a map; all of it unless all four are given."""
    return x0, x1, y0, y1


Bounded = Annotated[Bounds, Depends(bounded)]


@view(router, "/s/{store}/head/{at}", "head.html")
def head_page(library: Lib, here: Here, at: str) -> HeadView:
    """One head, such as ``3.0``: texts, label with evidence, images, neighbours."""
    return head_view(library, here, *head_of(at))


@view(router, "/s/{store}/head/{at}/map", "head_map.html")
def head_map_page(
    here: Here,
    at: str,
    bounds: Bounded,
    colour: str = "",
) -> MapView:
    """All images along a head's first two principal components; what lies in a region of it,
    and what is common to it."""
    return map_view(here, *head_of(at), bounds, colour)


@router.get("/s/{store}/head/{at}/map.png", response_class=Png)
def head_map_picture(
    here: Here,
    at: str,
    bounds: Bounded,
    colour: str = "",
    width: Pixels = 720,
    height: Pixels = 720,
) -> Response:
    """The map of a head as a picture, at any zoom."""
    points = cloud(here, *head_of(at))
    if points is None:
        raise NotHere(f"the principal components of {here.name} are not known")
    box = box_of(bounds) or points.whole
    colours = colouring(here, colour) if colour else None
    return Png(draw(points, box, width, height, colours))


@view(router, "/s/{store}/properties", "properties.html")
def properties_page(here: Here) -> Properties:
    """All properties that heads were labelled with, and the heads that carry each."""
    return properties(here)


@view(router, "/s/{store}/property/{name:path}", "property.html")
def property_page(here: Here, name: str) -> PropertyView:
    """A property: the heads that carry it, with evidence and images."""
    return property_view(here, name)
