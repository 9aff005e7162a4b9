"""Answers that were given before, given again while what they are made of is as it was."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROOM = 64 << 20  # bytes
LARGEST = 4 << 20


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes
    ----------
    headers : tuple of (bytes, bytes)
    body : bytes
    """

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body) + sum(len(n) + len(v) for n, v in self.headers) + 1000


class Answers:
    """An application whose answers are kept, as many as there is room for.

    Kept are pages, documents and pictures that were found (status 200) and are not marked
    ``Cache-Control: no-store``, by their address and the revision of what it shows. They all have
    an ``ETag``: a browser that has the same answer is told so in place of being sent it again.

    Parameters
    ----------
    app : ASGI application
    revision : callable
        Of a path, awaited: something that changes when what is shown there may have changed. None:
        nothing of this path is kept.
    room : int
        Bytes.
    """

    def __init__(
        self, app: ASGIApp, revision: Callable[[str], Awaitable[str | None]], room: int = ROOM
    ) -> None:
        self.app, self.revision, self.room = app, revision, room
        self.held = 0
        self._kept = OrderedDict[tuple[str, str, bytes], Answer]()
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        revision = await self.revision(scope["path"])
        # Where a page's head alone is asked for, the server under this leaves its body out.
        whole = {**scope, "method": "GET"}
        if revision is None:
            await self.app(whole, receive, send)
            return
        key = (revision, scope["path"], scope["query_string"])
        answer = self.get(key)
        if answer is None:
            answer = await self._ask(key, whole, receive, send)
        if answer is not None:
            await _give(answer, scope, send)

    def get(self, key: tuple[str, str, bytes]) -> Answer | None:
        """The answer of a key; None where it is not held."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: tuple[str, str, bytes], answer: Answer) -> None:
        """Hold an answer, and let go of those that were asked for least lately."""
        with self._lock:
            if key in self._kept:
                self.held -= self._kept.pop(key).size
            self._kept[key] = answer
            self.held += answer.size
            while self.held > self.room:
                self.held -= self._kept.popitem(last=False)[1].size

    async def _ask(
        self, key: tuple[str, str, bytes], scope: Scope, receive: Receive, send: Send
    ) -> Answer | None:
        """The application's answer, kept; None where it was passed on as it came."""
        start: Message | None = None  # held back until it is known how the answer goes on
        answer: Answer | None = None
        body = bytearray()

        async def sending(message: Message) -> None:
            nonlocal start, answer
            if message["type"] == "http.response.start" and _may_be_kept(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if len(body) > LARGEST:  # goes out as it comes
                first, start = start, None
                await send(first)
                await send({**message, "body": bytes(body)})
            elif not message.get("more_body", False):
                answer = _whole(start, bytes(body))

        await self.app(scope, receive, sending)
        if answer is not None:
            self.keep(key, answer)
        return answer


def _may_be_kept(message: Message) -> bool:
    return message["status"] == 200 and "no-store" not in Headers(scope=message).get(
        "cache-control", ""
    )


def _whole(start: Message, body: bytes) -> Answer:
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers.setdefault("Cache-Control", "private, no-cache")  # asked for again, by its ETag
    headers["Content-Length"] = str(len(body))
    return Answer(tuple(headers.raw), body)


async def _give(answer: Answer, scope: Scope, send: Send) -> None:
    headers = Headers(raw=list(answer.headers))
    known = Headers(scope=scope).get("if-none-match", "")
    same = headers["etag"] in [tag.strip().removeprefix("W/") for tag in known.split(",")]
    body = b"" if same or scope["method"] == "HEAD" else answer.body
    # How long the whole is stays said of a page whose head alone is asked for.
    raw = [(n, v) for n, v in answer.headers if not (same and n == b"content-length")]
    await send({"type": "http.response.start", "status": 304 if same else 200, "headers": raw})
    await send({"type": "http.response.body", "body": body})
