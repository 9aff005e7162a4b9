"""The web server under the pages: it waits for no client for ever."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.explorer.library import Library
from pipeline.explorer.web.guard import Guard, names_of
from pipeline.explorer.web.memory import Answers
from storage.errors import FacetError

# Seconds: until a request's address and headers are there; for a client that takes nothing of its
# answer; a connection that asks nothing more.
HEAD_SECONDS = 15.0
TAKE_SECONDS = 60.0
KEEP_ALIVE = 15
# A page and its thumbnails take half a dozen connections of a browser.
CONNECTIONS = 400


class Impatient(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with an end to waiting for a client."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        asked = self.cycle
        super().data_received(data)
        if self.cycle is not asked:
            self._stop()  # a request is whole but for its body, which has a time of its own
        elif self._waiting is None and (asked is None or asked.response_complete):
            self._wait(HEAD_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait(TAKE_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._wait(TAKE_SECONDS)  # what was written may still wait to be taken

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._waiting = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server for an application; ``run(sockets=[…])`` serves until it is stopped."""
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody says for a client who it is
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


def guarded(app: ASGIApp, library: Library, host: str, token: str | None) -> ASGIApp:
    """The application of a library, behind its guard, with what was answered before.

    Parameters
    ----------
    app : ASGI application
    library : Library
    host : str
        The address that is listened at.
    token : str or None
        What a visitor has to know.
    """
    return Guard(Answers(app, partial(revision_of, library)), names_of(host), token)


async def revision_of(library: Library, path: str) -> str | None:
    """What changes when what is shown at a path may have changed; None where it may at any time."""
    kind, name, *_ = [*path.removeprefix("/api").split("/")[1:], "", ""]
    if kind != "s" or name not in library.stores or path.endswith("/model"):
        return None
    here = library.stores[name]
    try:
        if here.is_fresh:
            return here.revision
        return await run_in_threadpool(lambda: here.revision)
    except (FacetError, OSError):
        return None  # the page says what is wrong
