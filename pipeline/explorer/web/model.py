"""How far a store's model is."""

from __future__ import annotations

from fastapi import APIRouter

from pipeline.explorer.model import State
from pipeline.explorer.web.views import Here, Lib

router = APIRouter()


@router.get("/api/s/{store}/model")
def model_state(here: Here, library: Lib) -> State:
    """Whether the store's model is loaded; it is when a view first needs it."""
    return library.model.state(here)
