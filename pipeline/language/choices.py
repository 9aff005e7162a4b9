"""Which model works at request, and where its server is; light, as it is read before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from storage.errors import FacetError

# In the environment: where a server is, and what it wants to be told.
BASE_URL, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
# What language models are asked: roles and contents, as the chat protocol has them.
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Chosen:
    """What does work that several kinds can do.

    Attributes
    ----------
    kind : str
        ``openai`` is a server of the OpenAI protocol, ``transformers`` a language model on this
        machine; others are the caller's own.
    model : str
        The server's name of the model, or where the model is; empty for what needs none.
    """

    kind: str
    model: str = ""

    @property
    def name(self) -> str:
        """As it was asked for."""
        return f"{self.kind}:{self.model}" if self.model else self.kind


def parse_choice(setting: str, text: str, kinds: Mapping[str, str]) -> Chosen:
    """``KIND`` or ``KIND:MODEL``.

    Parameters
    ----------
    setting : str
        What is set to ``text``.
    text : str
    kinds : mapping of str to str
        What may be chosen, and what stands behind its colon: ``MODEL``, ``PATH``, or nothing.

    Raises
    ------
    FacetError
        If that is none of the kinds; of ``transformers``, if no model is there, or its package is
        not installed.
    """
    kind, colon, model = text.partition(":")
    model = model.strip()
    if kind not in kinds or bool(kinds[kind]) != bool(model) or bool(colon) != bool(model):
        *some, last = [f"{name}:{wants}" if wants else name for name, wants in kinds.items()]
        raise FacetError(f"`{setting}` {text!r}: give {', '.join(some)} or {last}")
    if kind == "transformers":
        if not (Path(model) / "config.json").is_file():
            raise FacetError(
                f"`{setting}` {text}: there is no folder {model} with a config.json in it; give "
                "one that holds a causal language model and its tokenizer"
            )
        if find_spec("transformers") is None:
            raise FacetError(f"`{setting}` {text} needs pip install 'facet-interp[llm]'")
    return Chosen(kind, model)


def refuse_no_server(chosen: Chosen) -> None:
    """Refuse a choice of a server that the environment does not tell of, or not well."""
    if chosen.kind == "openai":
        base_url()
        server_key()


def base_url() -> str:
    """Where the server is, from the environment.

    Raises
    ------
    FacetError
        If the environment does not say, or says no web address, or one that holds a secret: it is
        printed and kept with the labels.
    """
    url = os.environ.get(BASE_URL, "").strip().rstrip("/")
    wanted = (
        f"set it to the address of a server of the OpenAI protocol, such as "
        f"http://localhost:8000/v1, and {KEY} where the server wants a key"
    )
    if not url:
        raise FacetError(f"{BASE_URL} is not set: {wanted}")
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        parts.port  # noqa: B018 - refuses what is no number
    except ValueError:
        known = False
    if "@" in url or "?" in url or "#" in url:  # nothing of it is said, whatever else it is
        raise FacetError(f"{BASE_URL} holds more than an address, perhaps a secret: {wanted}")
    if not known:
        raise FacetError(f"{BASE_URL} is {url!r}, no web address: {wanted}")
    return url


def server_key() -> str:
    """What the server wants to be told, from the environment; empty where there is none.

    Raises
    ------
    FacetError
        If it cannot be sent; the key is not said.
    """
    key = os.environ.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise FacetError(f"{KEY} holds characters that no key has: set it anew")
    return key
