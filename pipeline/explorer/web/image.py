"""A picture: an image of a store, or one that a visitor brought; and images that are like it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.explorer.image import AlikeView, ImageView, alike_view, image_view
from pipeline.explorer.subject import image_subject, picture_subject
from pipeline.explorer.web.views import Here, Lib, view
from pipeline.search.choices import Metric

router = APIRouter()

Space = Annotated[str, Query(alias="in")]


@view(router, "/s/{store}/image/{index}", "image.html")
def image(
    library: Lib, here: Here, index: int, text: str = "", against: str = "", model: bool = False
) -> ImageView:
    """What wrote an image's embedding: heads, MLPs and tokens, in numbers and in words; the neurons
    that fire on it; what speaks for a text in it. With ``model``, what the store does not keep."""
    return image_view(library, here, image_subject(here, index), text, against, model)


@view(router, "/s/{store}/picture/{picture}", "image.html")
def picture(library: Lib, here: Here, picture: str, text: str = "", against: str = "") -> ImageView:
    """The same of a picture that was brought, from one pass of the model."""
    return image_view(library, here, picture_subject(library, here, picture), text, against)


@view(router, "/s/{store}/image/{index}/alike", "alike.html")
def image_alike(
    library: Lib,
    here: Here,
    index: int,
    space: Space = "whole",
    metric: Metric = "cosine",
    where: str = "",
    top: int = 24,
) -> AlikeView:
    """Images that are most like an image of the store in what some heads wrote, or as a whole."""
    return alike_view(library, here, image_subject(here, index), space, metric, where, top)


@view(router, "/s/{store}/picture/{picture}/alike", "alike.html")
def picture_alike(
    library: Lib,
    here: Here,
    picture: str,
    space: Space = "whole",
    metric: Metric = "cosine",
    where: str = "",
    top: int = 24,
) -> AlikeView:
    """Images that are most like a picture that was brought."""
    shown = picture_subject(library, here, picture)
    return alike_view(library, here, shown, space, metric, where, top)
