"""Look at stores and at what was found of them, in a browser.

    facet explore --store out/
    facet explore --store vit/ dino/ --rosetta shared/

A small web server on this machine that only reads. Every view has an address, and the same data as
JSON under /api. It ends with Ctrl-C.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from jobs.console import run_job, say_loading
from jobs.settings import refuse_bounds
from storage import urls, views
from storage.errors import FacetError, Remedy
from storage.layout import SETUP


@dataclass(frozen=True)
class ExploreConfig:
    """Look at stores and at what was found of them, in a browser."""

    store: tuple[str, ...]
    """Stores: local paths or object-store URLs."""
    rosetta: tuple[str, ...] = ()
    """Where facet rosetta wrote."""
    port: int = 0
    """The port to listen at; 0: one that is free."""


def main(config: ExploreConfig) -> None:
    """Check what can be told at once, then serve until it is stopped."""
    check(config)
    say_loading()
    from jobs.recipes.explore import run

    run(config)


def check(config: ExploreConfig) -> None:
    """Refuse what cannot work before a library for arrays is loaded."""
    refuse_bounds(config, port=0)
    for store in config.store:
        views.find(urls.absolute(store))
    for place in config.rosetta:
        if not urls.exists(urls.join(urls.absolute(place), SETUP)):
            raise FacetError(
                f"`rosetta` {place}: no shared units are there", Remedy.first("rosetta", place)
            )


if __name__ == "__main__":
    run_job(main, tyro.cli(ExploreConfig, description=__doc__))
