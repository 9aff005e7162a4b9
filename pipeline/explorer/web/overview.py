"""Where one begins: all that is looked at; one store."""

from __future__ import annotations

from fastapi import APIRouter

from pipeline.explorer.overview import Overview, Start, overview, start
from pipeline.explorer.web.views import Here, Lib, view

router = APIRouter()


@view(router, "/", "start.html")
def start_page(library: Lib) -> Start:
    """Stores and places of shared units."""
    return start(library)


@view(router, "/s/{store}", "overview.html")
def overview_page(here: Here) -> Overview:
    """What a store is."""
    return overview(here)
