"""Language models behind a server of the OpenAI chat protocol."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NoReturn

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from storage.errors import FacetError

from .by_model import Messages
from .choices import KEY, server_key

# What a server is sent with every question, beside the model and the messages.
SETTINGS: dict[str, Any] = {"temperature": 0, "max_tokens": 512}
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


class Server:
    """A model of a server; the key stays in the environment and in the request.

    Parameters
    ----------
    url : str
        Above ``/chat/completions``.
    model : str
    """

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def __call__(self, messages: Messages) -> str:
        """The answer to messages; a busy, slow or failing server is asked again a few times.

        Raises
        ------
        FacetError
            If no answer came, or one that is none.
        """
        tries = Retrying(
            retry=retry_if_exception_type(_Busy), stop=stop_after_attempt(TRIES), wait=WAIT
        )
        try:
            return tries(self._ask, messages)
        except RetryError as error:
            why = error.last_attempt.exception()
            raise FacetError(
                f"the server at {self.url} gave no answer in {TRIES} tries: {why}. {_KEPT}"
            ) from why

    def _ask(self, messages: Messages) -> str:
        body = json.dumps({"model": self.model, "messages": messages, **SETTINGS}).encode()
        key = server_key()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)
        try:
            with _OPENER.open(request, timeout=SECONDS) as response:
                data = response.read()
        except urllib.error.HTTPError as error:
            self._refused(error, key)
        except TimeoutError as error:
            raise _Busy(f"nothing came for {SECONDS:g} s") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            raise _Busy(str(getattr(error, "reason", None) or error or type(error).__name__)) from (
                error
            )
        try:
            content = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise FacetError(
                f"the server at {self.url} does not speak the OpenAI chat protocol: it answered "
                f"{_said(data, key)!r}. {_KEPT}"
            ) from error
        return content if isinstance(content, str) else ""

    def _refused(self, error: urllib.error.HTTPError, key: str) -> NoReturn:
        try:
            said = _said(error.read(), key)
        except (OSError, http.client.HTTPException):  # the status says enough
            said = ""
        if error.code == 429 or error.code >= 500:
            raise _Busy(f"status {error.code}, {said!r}") from error
        if error.code in (401, 403):
            raise FacetError(
                f"the server at {self.url} wants another key (status {error.code}): set {KEY}. "
                f"{_KEPT}"
            ) from error
        raise FacetError(
            f"the server at {self.url} refused the question for model {self.model!r} (status "
            f"{error.code}): {said!r}. {_KEPT}"
        ) from error


def _said(data: bytes, key: str) -> str:
    """The beginning of what a server said, without the key that it may have said back."""
    text = data.decode(errors="replace")
    return (text.replace(key, "…") if key else text)[:200]
