"""A server that speaks S3, and a proxy before it that counts, fails, hangs and cuts."""

from __future__ import annotations

import http.client
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib import request
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

KEY_ID, SECRET = "AKIAFACETTESTKEYID00", "secret-that-nobody-may-see-7f3a/Qx"
BUCKET = "bucket"
CODES = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied", 416: "InvalidRange"}
SKIPPED = ("connection", "transfer-encoding", "host", "content-length")


def environment(endpoint: str) -> dict[str, str]:
    """What a user sets: all that Facet is told about the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def serve() -> Iterator[str]:
    """The endpoint of a server that holds nothing yet."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        yield endpoint
    finally:
        # What it holds is the process's, and would be there in the next one.
        request.urlopen(request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
        server.stop()


@contextmanager
def used(endpoint: str) -> Iterator[str]:
    """The environment set for this process, the bucket made; yields its URL."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(endpoint).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
        s3fs.S3FileSystem.clear_instance_cache()


def kind_of(method: str, target: str) -> str:
    """``PUT``, ``GET``, ``HEAD``, ``LIST``, ``POST`` or ``DELETE``."""
    return "LIST" if method == "GET" and "list-type" in parse_qs(urlsplit(target).query) else method


@dataclass
class Fault:
    """What happens to the next ``times`` requests of a kind whose path has ``part`` in it.

    ``how`` is an HTTP status, ``hang`` or ``cut`` (half the body, then the end).
    """

    kind: str
    how: int | str
    times: int = 10**9
    part: str = ""


@dataclass
class Proxy:
    """Between a client and the server; ``seen`` counts requests by kind."""

    upstream: str
    endpoint: str = ""
    faults: list[Fault] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    targets: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        self.faults, self.seen, self.targets = [], Counter(), []

    def note(self, kind: str, target: str) -> int | str | None:
        """Count a request; how it is to fail, if it is."""
        with self.lock:
            self.seen[kind] += 1
            self.targets.append(f"{kind} {target}")
            for fault in self.faults:
                if fault.kind == kind and fault.times > 0 and fault.part in target:
                    fault.times -= 1
                    return fault.how
        return None


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A reverse proxy before ``upstream``."""
    state = Proxy(upstream)
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            how = state.note(kind_of(self.command, self.path), self.path)
            if how == "hang":
                stopped.wait(60)
                self.close_connection = True
                return
            if isinstance(how, int):
                code = CODES[how]
                self.reply(how, [], f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")
                return
            self.forward(body, cut=how == "cut")

        def forward(self, body: bytes, cut: bool) -> None:
            connection = http.client.HTTPConnection(urlsplit(state.upstream).netloc, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in SKIPPED]
            # A HEAD's length is that of the object, not of its empty body.
            size = answer.getheader("Content-Length") if self.command == "HEAD" else None
            connection.close()
            self.reply(answer.status, kept, data, size, cut)

        def reply(
            self,
            status: int,
            headers: list[tuple[str, str]],
            data: bytes | str,
            size: str | None = None,
            cut: bool = False,
        ) -> None:
            data = data.encode() if isinstance(data, str) else data
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", size or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass  # a client that has given up

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
