"""The image table as pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.explorer.table import Images, page
from pipeline.explorer.web.views import Here, view

router = APIRouter()


@view(router, "/s/{store}/images", "images.html")
def images_page(
    here: Here,
    where: Annotated[str, Query(description="a condition over columns; empty: all images")] = "",
    sort: Annotated[str, Query(description="a column")] = "index",
    down: Annotated[bool, Query(description="the largest first")] = False,
    after: Annotated[int, Query(description="the image after which the page begins")] = -1,
) -> Images:
    """Images of a store by their columns, a page at a time; bad ones are among them."""
    return page(here, where, sort, down, after)
