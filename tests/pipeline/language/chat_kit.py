"""A server of the OpenAI protocol, as small as it can be, over real HTTP."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

# What is answered: a status and a body, from what was asked.
Reply = Callable[[dict], tuple[int, str]]


def content(text: str) -> tuple[int, str]:
    """An answer as the protocol has it."""
    message = {"role": "assistant", "content": text}
    return 200, json.dumps({"choices": [{"index": 0, "message": message}]})


def sensible(asked: dict) -> tuple[int, str]:
    """Every head is about shapes, and its first and third texts are."""
    last = asked["messages"][-1]["content"]
    return content("fits: 1, 3" if last.startswith("property:") else "label: Shape.")


@dataclass
class Chat:
    """A server under way.

    Attributes
    ----------
    url : str
    reply : callable
        May be changed meanwhile.
    asked : list of dict
        The questions' bodies, each with the ``key`` that came with it and the ``path`` it came to.
    """

    url: str
    reply: Reply
    asked: list[dict] = field(default_factory=list)

    def texts(self) -> list[str]:
        """Last messages, in order."""
        return [body["messages"][-1]["content"] for body in self.asked]


@contextmanager
def served(reply: Reply = sensible) -> Iterator[Chat]:
    """A server on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = re.sub("^Bearer ", "", self.headers.get("Authorization", ""))
            chat.asked.append({**body, "key": key, "path": self.path.removeprefix("/v1/")})
            status, text = chat.reply(body)
            self.send_response(status)
            if 300 <= status < 400:  # the text is where to go
                self.send_header("Location", text)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:  # where a redirected question would come
            chat.asked.append({"key": self.headers.get("Authorization", "")})
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    chat = Chat(f"http://127.0.0.1:{server.server_port}/v1", reply)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
