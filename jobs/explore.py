"""Look at stores and at what was found of them, in a browser.

    facet explore --store out/
    facet explore --store vit/ dino/ --rosetta shared/
    facet explore --store s3://bucket/laion --host 0.0.0.0 --port 8000

A small web server that only reads. Every view has an address, and the same data as JSON under /api.
It listens to this machine alone unless --host says otherwise; then its pages need a token, which is
part of the address that is printed. It ends with Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from dataclasses import dataclass

import tyro

from jobs.console import run_job, say_loading
from jobs.settings import refuse_bounds
from storage import urls, views
from storage.errors import FacetError, Remedy
from storage.layout import SETUP

# Modules of the extra.
NEEDED = ("fastapi", "uvicorn", "duckdb")


@dataclass(frozen=True)
class ExploreConfig:
    """Look at stores and at what was found of them, in a browser."""

    store: tuple[str, ...]
    """Stores: local paths or object-store URLs."""
    rosetta: tuple[str, ...] = ()
    """Where facet rosetta wrote."""
    port: int = 0
    """The port to listen at; 0: one that is free."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0: all of this machine's, for others to reach. Others than
    127.0.0.1 need the token that is printed."""


def main(config: ExploreConfig) -> None:
    """Check what can be told at once, then serve until it is stopped."""
    with check(config) as listening:
        say_loading()
        # Weights that are not on this machine are not sent for.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from jobs.recipes.explore import run

        run(config, listening)


def check(config: ExploreConfig) -> socket.socket:
    """Refuse what cannot work before a library for arrays is loaded; returns what is listened at,
    so that nobody else takes it meanwhile."""
    refuse_bounds(config, port=0)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FacetError(
            f"this needs {', '.join(missing)}: pip install 'facet-interp[explore]', or make a page "
            "of a store by `facet report`"
        )
    if not config.store:
        raise FacetError("`store`: name at least one")
    for store in config.store:
        views.find(urls.absolute(store))
    for place in config.rosetta:
        if not urls.exists(urls.join(urls.absolute(place), SETUP)):
            raise FacetError(
                f"`rosetta` {place}: no shared units are there", Remedy.first("rosetta", place)
            )
    return listen(config.host, config.port)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OverflowError as error:
        raise FacetError(f"`port` {port}: must be at most 65535") from error
    except OSError as error:
        number = error.errno or 0  # below 0: of looking a name up
        why = os.strerror(number) if number > 0 else "no machine is known by this name"
        raise FacetError(
            f"cannot listen at `host` {host}, `port` {port}: {why}. Leave `port` out to take one "
            "that is free, and `host` to listen to this machine alone"
        ) from error


if __name__ == "__main__":
    run_job(main, tyro.cli(ExploreConfig, description=__doc__))
