"""What a model takes for another class: cues and pictures, as a page and as data."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from pipeline.adversarial.choices import NEURONS
from pipeline.explorer.adversarial import (
    AdversarialView,
    adversarial_view,
    map_file,
    picture_file,
)
from pipeline.explorer.web.classes import Words
from pipeline.explorer.web.views import Here, Lib, Png, view

router = APIRouter()

Name = Annotated[str, Query(max_length=200)]
Result = Annotated[str, Path(max_length=100)]


@view(router, "/s/{store}/adversarial", "adversarial.html")
def adversarial(
    library: Lib,
    here: Here,
    drawn: Name = "",
    target: Name = "",
    classes: Words = "",
    neurons: Annotated[int, Query(ge=1, le=1_000_000)] = NEURONS,
) -> AdversarialView:
    """Which texts make the model take a class for another, by its neurons; pictures that were made
    from them, and what the model takes these for."""
    return adversarial_view(library, here, drawn, target, classes, neurons)


@router.get("/s/{store}/adversarial/{name}/picture/{number}.png", response_class=Png)
def adversarial_picture(here: Here, name: Result, number: int) -> Response:
    """A picture that was made."""
    return Png(picture_file(here, name, number))


@router.get("/s/{store}/adversarial/{name}/map/{number}.png", response_class=Png)
def adversarial_map(here: Here, name: Result, number: int) -> Response:
    """What speaks for the target in it, over the picture as the model saw it."""
    return Png(map_file(here, name, number))
