"""Models behind a server of the OpenAI protocol."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NoReturn

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from storage.errors import FacetError

from .choices import KEY, Messages, server_key

SECONDS, TRIES = 120.0, 5
WAIT = wait_random_exponential(multiplier=0.5, max=20)
# Questions under way at a time.
AT_ONCE = 8
_KEPT = "Answers so far are kept, and the same command goes on from them."


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A server that sends elsewhere is refused: the key would go there with the question."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class _Busy(Exception):
    """The server may answer if it is asked once more."""


class RefusedError(FacetError):
    """The server refused a question.

    Attributes
    ----------
    status : int
        400 where it is what was asked that the server will not do.
    said : str
        Why, in the server's words.
    """

    def __init__(self, told: str, status: int, said: str) -> None:
        super().__init__(told)
        self.status, self.said = status, said


class Server:
    """A model of a server; the key stays in the environment and in the request.

    Parameters
    ----------
    url : str
        Above ``/chat/completions``.
    model : str
    settings : mapping
        What is sent with every question, beside the model.
    """

    def __init__(self, url: str, model: str, settings: Mapping[str, Any]) -> None:
        self.url, self.model, self.settings = url, model, settings

    def __call__(self, messages: Messages, seed: int | None = None) -> str:
        """The answer to messages; the same seed is the same answer, of servers that heed it."""
        body: dict[str, Any] = {"messages": messages}
        if seed is not None:
            body["seed"] = seed
        answer = self.post("chat/completions", body)
        try:
            content = answer["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            raise self.strange(answer) from error
        # JSON may hold half a character, which no file does.
        return content.encode(errors="replace").decode() if isinstance(content, str) else ""

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What is answered at a path, as JSON has it; a busy or failing server is asked again.

        Raises
        ------
        RefusedError
            If the server refuses what is asked.
        FacetError
            If no answer came, or one that is none.
        """
        data = json.dumps({"model": self.model, **body, **self.settings}).encode()
        tries = Retrying(
            retry=retry_if_exception_type(_Busy), stop=stop_after_attempt(TRIES), wait=WAIT
        )
        try:
            return tries(self._ask, path, data)
        except RetryError as error:
            why = error.last_attempt.exception()
            raise FacetError(
                f"the server at {self.url} gave no answer in {TRIES} tries: {why}. {_KEPT}"
            ) from why

    def strange(self, answer: object) -> FacetError:
        """What to raise at an answer that the protocol does not have."""
        said = _said(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        return FacetError(
            f"the server at {self.url} does not speak the OpenAI protocol: it answered {said!r}. "
            f"{_KEPT}"
        )

    def _ask(self, path: str, data: bytes) -> Any:
        key = server_key()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"{self.url}/{path}", data, headers)
        try:
            with _OPENER.open(request, timeout=SECONDS) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            self._refused(error)
        except TimeoutError as error:
            raise _Busy(f"nothing came for {SECONDS:g} s") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            raise _Busy(str(getattr(error, "reason", None) or error or type(error).__name__)) from (
                error
            )
        try:
            return json.loads(answer)
        except ValueError as error:
            raise self.strange(answer) from error

    def _refused(self, error: urllib.error.HTTPError) -> NoReturn:
        try:
            said = _said(error.read())
        except (OSError, http.client.HTTPException):  # the status says enough
            said = ""
        if error.code == 429 or error.code >= 500:
            raise _Busy(f"status {error.code}, {said!r}") from error
        if error.code in (401, 403):
            raise FacetError(
                f"the server at {self.url} wants another key (status {error.code}): set {KEY}. "
                f"{_KEPT}"
            ) from error
        raise RefusedError(
            f"the server at {self.url} refused the question for model {self.model!r} (status "
            f"{error.code}): {said!r}. {_KEPT}",
            error.code,
            said,
        ) from error


def _said(data: bytes) -> str:
    """The beginning of what a server said, without the key that it may have said back."""
    text, key = data.decode(errors="replace"), server_key()
    return (text.replace(key, "…") if key else text)[:200]
