"""Heat maps of a picture, and each of them as a picture."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from pipeline.explorer.errors import NotHere
from pipeline.explorer.maps import Asked, MapsView, draw, maps_view, picture_of, read_asked
from pipeline.explorer.web.views import Here, Lib, Png, view
from pipeline.heatmaps.seen import Seen, see_file, see_image

router = APIRouter()

Several = Annotated[list[str], Query(default_factory=list)]


def asked_of(
    here: Here,
    text: Several,
    heads: Several,
    head: Several,
    against: str = "",
    layers: str = "",
    pool: str = "",
    convention: str = "",
) -> Asked:
    """What the address asks for."""
    return read_asked(here, text, against, layers, [*heads, *head], pool, convention)


AskedFor = Annotated[Asked, Depends(asked_of)]


def image_seen(here: Here, index: int) -> Seen:
    """An image of the store as the model saw it."""
    if not 0 <= index < here.meta.images:
        raise NotHere(f"image {index}: this store has images 0-{here.meta.images - 1}")
    return here.cached(("as seen", index), lambda: see_image(here.store, index))


ImageSeen = Annotated[Seen, Depends(image_seen)]


def picture_seen(library: Lib, here: Here, picture: str) -> Seen:
    """A picture that a visitor brought, as the model saw it."""
    held = library.uploads.get(picture)
    return here.cached(("as seen", held.id), lambda: see_file(here.meta, held.name, held.data))


PictureSeen = Annotated[Seen, Depends(picture_seen)]


@view(router, "/s/{store}/image/{index}/maps", "maps.html")
def image_maps(
    library: Lib, here: Here, index: int, seen: ImageSeen, asked: AskedFor, layers: str = ""
) -> MapsView:
    """Where in an image texts come from.

    Maps of `text` (several), each less that of `against`, over `layers` or the sum of `heads`; or,
    with `pool`, each of `heads` by the two of its own texts that it writes most and least of.
    """
    return maps_view(library, here, f"/s/{here.name}/image/{index}", seen, asked, layers)


@router.get("/s/{store}/image/{index}/maps/{number}.png", response_class=Png)
def image_map(library: Lib, here: Here, seen: ImageSeen, asked: AskedFor, number: int) -> Response:
    """One of the maps over the image as the model saw it."""
    return Png(picture_of(draw(library, here, seen, asked), number))


@view(router, "/s/{store}/picture/{picture}/maps", "maps.html")
def picture_maps(
    library: Lib, here: Here, picture: str, seen: PictureSeen, asked: AskedFor, layers: str = ""
) -> MapsView:
    """Where in a picture that a visitor brought texts come from: as of an image of the store."""
    return maps_view(library, here, f"/s/{here.name}/picture/{picture}", seen, asked, layers)


@router.get("/s/{store}/picture/{picture}/maps/{number}.png", response_class=Png)
def picture_map(
    library: Lib, here: Here, seen: PictureSeen, asked: AskedFor, number: int
) -> Response:
    """One of the maps over the picture as the model saw it."""
    return Png(picture_of(draw(library, here, seen, asked), number))
