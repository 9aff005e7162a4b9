"""Where one begins: all that is looked at; one store."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.explorer.overview import Overview, Start, overview, start
from pipeline.explorer.web.views import Here, Lib, view

router = APIRouter()


@view(router, "/", "start.html")
def start_page(library: Lib) -> Start:
    """Stores and places of shared units, and the questions that one begins with."""
    return start(library)


@view(router, "/s/{store}", "overview.html")
def overview_page(
    here: Here,
    colour: Annotated[str, Query(description="share, variance, label or property:NAME")] = "share",
) -> Overview:
    """What a store is, what was found of it, and its heads and MLPs by one quantity."""
    return overview(here, colour)
