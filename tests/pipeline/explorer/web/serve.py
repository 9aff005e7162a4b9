"""A real server on a free port, and bare sockets to it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp

from pipeline.explorer.web.serving import make_server


@contextmanager
def serving(app: ASGIApp) -> Iterator[int]:
    """Serve an application; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def ask(port: int, request: bytes) -> bytes:
    """All that the server sends back until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sent:
        sent.sendall(request)
        return everything(sent)


def everything(sent: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    while piece := sent.recv(65_536):
        found += piece
    return found


def get(port: int, target: bytes, *headers: bytes, host: bytes = b"127.0.0.1") -> bytes:
    """A bare GET, its target as it stands."""
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *headers]
    return ask(port, b"\r\n".join(lines) + b"\r\n\r\n")


def post(port: int, target: bytes, body: bytes, *headers: bytes) -> bytes:
    """A bare POST."""
    length = b"Content-Length: " + str(len(body)).encode()
    lines = [b"POST " + target + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", length]
    return ask(port, b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
