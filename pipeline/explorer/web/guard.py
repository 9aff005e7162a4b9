"""What stands before every page: who may ask, for what, and how much of it.

A page of another site that is open in the same browser can send requests to this machine. It is
kept from reading anything, and from making the server work, by the names that a request may call
the server by (``Host``; a name of another site that was made to lead here is none of them), by what
browsers say of where a request comes from (``Sec-Fetch-Site``, ``Origin``), and, where the server
can be reached from other machines, by a token.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
import socket
from collections.abc import Iterable
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESS_LENGTH = 8192
HEADER_BYTES = 32 << 10
BODY_BYTES = 40 << 20  # no page takes more; what takes less says so itself
BODY_SECONDS = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Refused(HTTPException):
    """A request that is not let in: its status, and why."""


def names_of(host: str) -> frozenset[str]:
    """Names that the server may be called by, if it listens at a host."""
    if host in LOOPBACK:
        return frozenset(LOOPBACK)
    return frozenset(
        {*LOOPBACK, host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    )


class Guard:
    """An application, behind all that is checked before it.

    Parameters
    ----------
    app : ASGI application
    names : iterable of str
        Names that the server may be called by.
    token : str or None
        What a visitor has to know. Then bare IP addresses are names, too: none of them can be
        another site's.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], token: str | None = None) -> None:
        self.app, self.names, self.token = app, frozenset(names), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the application's start and end
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(scope)
            receiving = limited(scope, receive)
        except Refused as refused:
            await _say(scope, refused, sending)
        else:
            await self.app(scope, receiving, sending)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES:
            raise Refused(431, f"headers may have at most {HEADER_BYTES >> 10} KiB")
        self._host(headers)
        _address(scope)
        _elsewhere(scope, headers)
        if self.token is not None:
            self._token(scope, headers, self.token)

    def _host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        name = _host_name(given[0]) if len(given) == 1 else ""
        if name in self.names or (self.token is not None and _is_ip(name)):
            return
        raise Refused(
            421,
            f"this server is not called {name!r}: ask it by the address that it printed"
            if name
            else "a request must say, once, whom it asks (Host)",
        )

    def _token(self, scope: Scope, headers: Headers, token: str) -> None:
        query = parse_qsl(scope["query_string"].decode(), keep_blank_values=True)
        cookie = cookie_name(scope)
        told = [value for name, value in query if name == "token"]
        if told and _same(told[-1], token):
            left = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["raw_path"].decode().lstrip("/")  # never "//elsewhere"
            raise Refused(
                303,
                "the token is right",
                {
                    "Location": f"{path}?{left}" if left else path,
                    # Not Strict: a view's address that a colleague sent opens from their message.
                    "Set-Cookie": f"{cookie}={token}; Path=/; HttpOnly; SameSite=Lax",
                },
            )
        kept = _cookies(headers).get(cookie, "")
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if _same(kept, token) or (kind.lower() == "bearer" and _same(bearer.strip(), token)):
            return
        raise Refused(
            401,
            "this server can be reached from other machines, and shows its pages to those who "
            "have its token: open the address that it printed, which ends in ?token=…",
            {"WWW-Authenticate": "Bearer"},
        )


def cookie_name(scope: Scope) -> str:
    """A browser keeps cookies by host alone: servers at several ports must not share one."""
    return f"facet-{(scope.get('server') or ('', 0))[1]}"


def limited(scope: Scope, receive: Receive) -> Receive:
    """The body of a request, within what is taken of any, in bytes and in seconds."""
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length) > BODY_BYTES:
        raise Refused(413, f"a request may have at most {BODY_BYTES >> 20} MiB")
    left, until = BODY_BYTES, asyncio.get_running_loop().time() + BODY_SECONDS
    whole = False

    async def receiving() -> Message:
        nonlocal left, whole
        if whole:  # what comes after the body is that the client has gone
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise Refused(408, f"the request was not whole within {BODY_SECONDS:.0f} s") from None
        left -= len(message.get("body", b""))
        if left < 0:
            raise Refused(413, f"a request may have at most {BODY_BYTES >> 20} MiB")
        whole = not message.get("more_body", False)
        return message

    return receiving


def _address(scope: Scope) -> None:
    raw, query = scope["raw_path"], scope["query_string"]
    if len(raw) + len(query) > ADDRESS_LENGTH:
        raise Refused(414, f"an address may have at most {ADDRESS_LENGTH} characters")
    for part in (raw, query.replace(b"+", b" ")):
        try:
            text = unquote_to_bytes(part).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(400, "the address is not UTF-8") from None
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
            raise Refused(400, "the address holds a control character")


def _elsewhere(scope: Scope, headers: Headers) -> None:
    """Refuse what the page of another site asks, unless it is a link that a visitor followed."""
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    reads = scope["method"] in ("GET", "HEAD")
    foreign = site in ("cross-site", "same-site") and not (reads and mode == "navigate")
    origin = headers.get("origin")
    if origin is not None and not reads:
        foreign = foreign or origin.partition("://")[2] != headers.get("host")
    if foreign:
        raise Refused(403, "pages of other sites may not ask this server")


def _host_name(given: str) -> str:
    """The name in ``Host``, without the port; empty where it is none."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", given)
    return found[1].strip("[]").rstrip(".").lower() if found else ""


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: m.value for name, m in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


async def _say(scope: Scope, refused: Refused, send: Send) -> None:
    """The refusal in words; a page without any data, for it may be for a stranger."""
    if scope["path"].startswith("/api/") or scope["method"] not in ("GET", "HEAD"):
        kind, body = "application/json", json.dumps({"error": refused.detail})
    else:
        kind = "text/html; charset=utf-8"
        body = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Facet</title>'
            f"<h1>This is not shown</h1><p>{escape(refused.detail)}</p></html>"
        )
    content = body.encode()
    headers = {
        "Content-Type": kind,
        "Content-Length": str(len(content)),
        "Cache-Control": "no-store",
        # What is left of a body is not read.
        "Connection": "close",
        **(refused.headers or {}),
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status_code, "headers": raw})
    await send({"type": "http.response.body", "body": content})
