"""Pictures at addresses of their own."""

from __future__ import annotations

from fastapi import APIRouter, Response

from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.explorer.pictures import Kind, Picture
from pipeline.explorer.web.views import Here, Jpeg, Lib, Png

router = APIRouter()

# What a browser may keep: an image of a store stays what it is, or becomes grey.
SECONDS = 600
SENT = {"thumbnail": Jpeg, "seen": Png}


@router.get("/s/{store}/image/{index}/thumbnail.jpg", response_class=Jpeg)
def thumbnail(library: Lib, here: Here, index: int) -> Response:
    """An image of the store, at most 192 pixels wide and high; grey where it cannot be had."""
    return _image(library, here, index, "thumbnail")


@router.get("/s/{store}/image/{index}/seen.png", response_class=Png)
def seen(library: Lib, here: Here, index: int) -> Response:
    """An image of the store as the model saw it; grey where it cannot be had."""
    return _image(library, here, index, "seen")


@router.get("/s/{store}/picture/{picture}/thumbnail.jpg", response_class=Jpeg)
def brought_thumbnail(library: Lib, here: Here, picture: str) -> Response:
    """A picture that was brought, at most 192 pixels wide and high."""
    return _brought(library, here, picture, "thumbnail")


@router.get("/s/{store}/picture/{picture}/seen.png", response_class=Png)
def brought_seen(library: Lib, here: Here, picture: str) -> Response:
    """A picture that was brought, as the model sees it."""
    return _brought(library, here, picture, "seen")


def _brought(library: Library, here: Opened, picture: str, kind: Kind) -> Response:
    held = library.uploads.get(picture)
    return _sent(library.pictures.of_file(held.id, held.data, here.meta, kind), kind)


def _image(library: Library, here: Opened, index: int, kind: Kind) -> Response:
    if not 0 <= index < here.meta.images:
        raise NotHere(
            f"there is no image {index}: those of {here.name} are 0–{here.meta.images - 1}"
        )
    return _sent(library.pictures.of_image(here, index, kind), kind)


def _sent(picture: Picture, kind: Kind) -> Response:
    kept = "no-store" if picture.unreadable else f"private, max-age={SECONDS}"
    return SENT[kind](picture.data, headers={"Cache-Control": kept})
