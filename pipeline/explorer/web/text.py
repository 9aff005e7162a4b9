"""A text: images, heads that respond, heads that it describes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.explorer.text import TextView, text_view
from pipeline.explorer.web.views import Here, Lib, view
from pipeline.search.choices import Metric

router = APIRouter()


@view(router, "/s/{store}/text", "text.html")
def text_page(
    library: Lib,
    here: Here,
    text: str = "",
    space: Annotated[str, Query(alias="in")] = "whole",
    metric: Metric = "cosine",
    where: str = "",
) -> TextView:
    """The images that have most of a text in a space, and the heads that respond to it."""
    return text_view(library, here, text, space, metric, where)
