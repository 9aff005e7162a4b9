"""The recipe of ``facet explore``: a server over stores."""

from __future__ import annotations

import socket
import webbrowser

import uvicorn

from jobs.console import console
from jobs.explore import ExploreConfig
from jobs.pages import following
from pipeline.cluster import machines
from pipeline.explorer.library import Library
from pipeline.explorer.web.app import make_app

HOST = "127.0.0.1"


def run(config: ExploreConfig) -> None:
    """Serve until it is stopped."""
    machines.work("here")
    library = Library(config.store, config.rosetta, following)
    with socket.create_server((HOST, config.port)) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        console.print(f"Facet listens at {address} (Ctrl-C ends it)")
        webbrowser.open(address)
        server = uvicorn.Server(uvicorn.Config(make_app(library), log_level="warning"))
        server.run(sockets=[listening])
