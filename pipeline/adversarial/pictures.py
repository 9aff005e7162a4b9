"""The stage of pictures: whatever draws them, its pictures as a table and files."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.identity import held
from pipeline.language.choices import Chosen, base_url
from pipeline.telling import SILENT, Teller

from .drawing import by_renderer, draw_all, table, wanted


def draw_pictures(
    descriptions: pd.DataFrame,
    drawer: Chosen,
    drawn: str,
    target: str,
    each: int,
    seed: int,
    place: str,
    teller: Teller = SILENT,
) -> pd.DataFrame:
    """Draw some pictures of every description that was chosen.

    Each is kept as it comes; the same call goes on from what is kept.

    Parameters
    ----------
    descriptions : DataFrame
        ``tables.DESCRIPTIONS["descriptions"]``.
    drawer : Chosen
        Of ``choices.parse_drawer``.
    drawn, target : str
        The classes, for whatever knows what it drew.
    each : int
        Pictures of one description.
    seed : int
    place : str
        Where files go, below ``drawing.FOLDER``.
    teller : Teller

    Returns
    -------
    DataFrame
        ``tables.PICTURES["pictures"]``; ``file`` is relative to the place.
    """
    if drawer.kind == "microworld":
        draw = by_renderer(drawn, target)
        return draw_all(descriptions, draw, each, seed, place, teller=teller)
    if drawer.kind == "openai":
        from pipeline.language.servers import AT_ONCE

        from .drawers import ServerDrawer

        server = ServerDrawer(base_url(), drawer.model)
        return draw_all(descriptions, server, each, seed, place, at_once=AT_ONCE, teller=teller)
    from .draw_work import draw_by_pipeline

    todo = wanted(descriptions, each, seed)
    return table(draw_by_pipeline(drawer.model, todo, place, teller))


def drawer_facts(drawer: Chosen) -> dict[str, Any]:
    """How pictures are made, to keep beside them."""
    if drawer.kind == "openai":
        return {"server": base_url()}
    if drawer.kind == "diffusers":
        from importlib.metadata import version

        return {"diffusers": version("diffusers")}
    return {}


def drawer_identity(drawer: Chosen) -> str:
    """What decides a drawer's pictures: its name, or what a pipeline's folder holds."""
    return f"diffusers:{held(drawer.model)}" if drawer.kind == "diffusers" else drawer.name
