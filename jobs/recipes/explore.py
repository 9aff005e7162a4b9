"""The recipe of ``facet explore``: a server over stores."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser

from jobs.console import console
from jobs.explore import ExploreConfig
from jobs.pages import as_typed, following
from pipeline.cluster import machines
from pipeline.explorer.library import Library
from pipeline.explorer.web.app import make_app
from pipeline.explorer.web.guard import LOOPBACK
from pipeline.explorer.web.serving import guarded, make_server


def run(config: ExploreConfig, listening: socket.socket) -> None:
    """Serve until it is stopped."""
    machines.work("here")
    library = Library(config.store, config.rosetta, following, as_typed)
    token = None if config.host in LOOPBACK else secrets.token_urlsafe(24)
    for address in addresses(config.host, listening.getsockname()[1], token):
        console.print(f"Facet is at {address}")
    console.print("Ctrl-C ends it")
    if has_browser():
        # A browser that is started from here may run as long as it is looked at.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    server = make_server(guarded(make_app(library), library, config.host, token))
    # Unwinds once the server has stopped, so that pictures on disk and the model's process go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        console.print("ended")
    finally:
        library.close()


def addresses(host: str, port: int, token: str | None) -> list[str]:
    """Where the server is reached; from this machine by the last."""
    names = [socket.gethostname(), "127.0.0.1"] if host in ("0.0.0.0", "::") else [host]
    query = "" if token is None else f"?token={token}"
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}/{query}" for name in names]


def has_browser() -> bool:
    """Whether a window can be opened: browsers that run in a terminal would take this one."""
    shown = any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    return shown or sys.platform in ("darwin", "win32")
