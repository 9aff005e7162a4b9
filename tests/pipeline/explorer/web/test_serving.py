"""Clients that are slow, or say what is no request, over real sockets."""

import socket
import time
from contextlib import suppress

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pipeline.explorer.web import guard, serving
from pipeline.explorer.web.guard import Guard, names_of
from tests.pipeline.explorer.web.serve import ask, get, status
from tests.pipeline.explorer.web.serve import serving as served


def page(request):
    return PlainTextResponse("seen")


def large(request):
    return PlainTextResponse("x" * 50_000_000)


async def length(request):
    return PlainTextResponse(str(len(await request.body())))


APP = Starlette(
    routes=[Route("/", page), Route("/large", large), Route("/take", length, methods=["POST"])]
)


@pytest.fixture(scope="module")
def port():
    with served(Guard(APP, names_of("127.0.0.1"))) as port:
        yield port


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(serving, "TAKE_SECONDS", 0.3)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)


def drip(port, pieces, pause):
    """Send piece after piece, until the server closes; what it said."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sent:
        with suppress(ConnectionError):
            for piece in pieces:
                sent.sendall(piece)
                time.sleep(pause)
        with suppress(ConnectionError):  # what it said before it closed is there all the same
            while piece := sent.recv(65_536):
                found += piece
    return found


@pytest.mark.usefixtures("hasty")
def test_a_client_that_never_ends_its_headers_is_let_go(port):
    sent = []

    def pieces():
        yield b"GET / HTTP/1.1\r\n"
        for _ in range(100):
            sent.append(b"X: y\r\n")
            yield sent[-1]

    assert drip(port, pieces(), 0.05) == b""
    assert len(sent) < 100


@pytest.mark.usefixtures("hasty")
def test_a_client_that_says_nothing_is_let_go(port):
    assert ask(port, b"") == b""


@pytest.mark.usefixtures("hasty")
def test_a_client_that_never_ends_its_body_is_told_so(port):
    head = b"POST /take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
    answer = drip(port, [head, *[b"x"] * 12], 0.05)
    assert status(answer) == 408


@pytest.mark.usefixtures("hasty")
def test_a_client_that_takes_nothing_of_its_answer_is_let_go(port):
    with socket.socket() as sent:
        sent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent.connect(("127.0.0.1", port))
        sent.settimeout(20)
        sent.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(1)
        taken = 0
        with pytest.raises(ConnectionError):
            while piece := sent.recv(65_536):
                taken += len(piece)
            raise ConnectionError
    assert taken < 50_000_000


@pytest.mark.usefixtures("hasty")
def test_slow_clients_keep_nobody_waiting(port):
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    for each in slow:
        each.sendall(b"POST /take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
    started = time.monotonic()
    assert status(get(port, b"/")) == 200
    assert time.monotonic() - started < 5
    for each in slow:
        each.close()


def test_silence_between_two_requests_has_a_time_of_its_own(port, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sent:
        for _ in range(2):
            sent.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            found = b""
            while b"seen" not in found:
                found += sent.recv(65_536)
            time.sleep(0.6)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX: "
        + b"y" * 50_000
        + b"\r\n\r\n",
        b"POST /take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_request_ends_in_a_refusal(port, request_):
    answer = ask(port, request_)
    assert 400 <= status(answer) < 500
    assert b"Traceback" not in answer
    assert status(get(port, b"/")) == 200
