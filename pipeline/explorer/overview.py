"""What a store is, at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.explorer.library import Library, Opened


@dataclass(frozen=True)
class Start:
    """What this server looks at.

    Attributes
    ----------
    stores, rosettas : dict of str to str
        Where each is, by its name in addresses.
    """

    stores: dict[str, str]
    rosettas: dict[str, str]


def start(library: Library) -> Start:
    """All that can be looked at."""
    return Start(
        {name: opened.typed for name, opened in library.stores.items()},
        {name: opened.typed for name, opened in library.rosettas.items()},
    )


@dataclass(frozen=True)
class Overview:
    """A store.

    Attributes
    ----------
    name, typed : str
    model, weights : str
    images : int
    """

    name: str
    typed: str
    model: str
    weights: str
    images: int


def overview(here: Opened) -> Overview:
    """What a store is."""
    meta = here.meta
    return Overview(here.name, here.typed, meta.architecture, meta.weights, meta.images)
