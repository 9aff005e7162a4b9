"""The recipe of ``facet explore``: a server over stores."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from contextlib import suppress

import pyarrow as pa

from jobs.console import console
from jobs.explore import ExploreConfig
from jobs.pages import as_typed, following
from pipeline.cluster import machines
from pipeline.explorer.library import Library
from pipeline.explorer.web.app import make_app
from pipeline.explorer.web.guard import LOOPBACK
from pipeline.explorer.web.serving import guarded, make_server

# A thread that computes lets the others in after so long: a scan waits for its turn many times, and
# Python's own 5 ms each would be seconds.
SECONDS_TO_SWITCH = 0.0005
# Of <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def run(config: ExploreConfig, listening: socket.socket) -> None:
    """Serve until it is stopped."""
    machines.work("here")
    give_back_memory()
    sys.setswitchinterval(SECONDS_TO_SWITCH)
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
        # The server sees Ctrl-C itself, and hands it on unless whoever started us ignores it.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    finally:
        library.close()
    console.print("ended")


def give_back_memory() -> None:
    """Have the C library return what it no longer needs; the GNU one alone can be told.

    Unless told otherwise it keeps blocks of up to 32 MB for later, in up to eight heaps a core, as
    threads come and go. Arrow has an allocator of its own, which keeps as much.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):  # another C library
        told = ctypes.CDLL(None).mallopt
        told(M_ARENA_MAX, 2)
        told(M_MMAP_THRESHOLD, 1 << 20)
        told(M_TRIM_THRESHOLD, 16 << 20)


def addresses(host: str, port: int, token: str | None) -> list[str]:
    """Where the server is reached; from this machine by the last."""
    names = [socket.gethostname(), "127.0.0.1"] if host in ("0.0.0.0", "::") else [host]
    query = "" if token is None else f"?token={token}"
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}/{query}" for name in names]


def has_browser() -> bool:
    """Whether a window can be opened: browsers that run in a terminal would take this one."""
    shown = any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    return shown or sys.platform in ("darwin", "win32")
