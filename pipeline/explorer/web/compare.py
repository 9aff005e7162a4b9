"""Two sets of images, in words and heads."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.explorer.two_sets import TwoSets, two_sets
from pipeline.explorer.web.views import Here, view

router = APIRouter()

Condition = Annotated[str, Query(max_length=2000)]


@view(router, "/s/{store}/compare", "compare.html")
def compare_page(here: Here, a: Condition = "", b: Condition = "") -> TwoSets:
    """Where the means of two sets of images differ, and texts along the differences."""
    return two_sets(here, a, b)
