"""Concepts of a picture, as a page, as data, and their maps as pictures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from pipeline.explorer.concepts import (
    ConceptsView,
    concept_map,
    concepts_view,
    fires_map,
    read_asked,
)
from pipeline.explorer.subject import image_subject, picture_subject
from pipeline.explorer.web.maps import ImageSeen, PictureSeen
from pipeline.explorer.web.views import Here, Lib, Png, view

router = APIRouter()

Methods = Annotated[list[str], Query(default_factory=list, max_length=4)]
Layers = Annotated[str, Query(max_length=200)]


@view(router, "/s/{store}/image/{index}/concepts", "concepts.html")
def image_concepts(
    library: Lib, here: Here, index: int, method: Methods, mlp_layers: Layers = ""
) -> ConceptsView:
    """What is in an image, in words: by neurons that fire, as published, by heads, by the
    embedding; who says each, and where in the image it comes from."""
    return concepts_view(library, here, image_subject(here, index), method, mlp_layers)


@view(router, "/s/{store}/picture/{picture}/concepts", "concepts.html")
def picture_concepts(
    library: Lib, here: Here, picture: str, method: Methods, mlp_layers: Layers = ""
) -> ConceptsView:
    """The same of a picture that was brought."""
    shown = picture_subject(library, here, picture)
    return concepts_view(library, here, shown, method, mlp_layers)


@router.get("/s/{store}/image/{index}/concepts/maps/{number}.png", response_class=Png)
def image_concept_map(
    library: Lib,
    here: Here,
    index: int,
    seen: ImageSeen,
    number: int,
    method: Methods,
    mlp_layers: Layers = "",
) -> Response:
    """Where one of the first concepts comes from, over the image as the model saw it."""
    asked = read_asked(here, method, mlp_layers)
    return Png(concept_map(library, here, image_subject(here, index), asked, seen, number))


@router.get("/s/{store}/image/{index}/concepts/fires/{number}.png", response_class=Png)
def image_fires_map(
    library: Lib,
    here: Here,
    index: int,
    seen: ImageSeen,
    number: int,
    method: Methods,
    mlp_layers: Layers = "",
) -> Response:
    """Where one of the neurons fires that weigh most, over the image as the model saw it."""
    asked = read_asked(here, method, mlp_layers)
    return Png(fires_map(library, here, image_subject(here, index), asked, seen, number))


@router.get("/s/{store}/picture/{picture}/concepts/maps/{number}.png", response_class=Png)
def picture_concept_map(
    library: Lib,
    here: Here,
    picture: str,
    seen: PictureSeen,
    number: int,
    method: Methods,
    mlp_layers: Layers = "",
) -> Response:
    """Where one of the first concepts comes from, over a picture that was brought."""
    asked, shown = read_asked(here, method, mlp_layers), picture_subject(library, here, picture)
    return Png(concept_map(library, here, shown, asked, seen, number))


@router.get("/s/{store}/picture/{picture}/concepts/fires/{number}.png", response_class=Png)
def picture_fires_map(
    library: Lib,
    here: Here,
    picture: str,
    seen: PictureSeen,
    number: int,
    method: Methods,
    mlp_layers: Layers = "",
) -> Response:
    """Where one of the neurons fires that weigh most, over a picture that was brought."""
    asked, shown = read_asked(here, method, mlp_layers), picture_subject(library, here, picture)
    return Png(fires_map(library, here, shown, asked, seen, number))
