"""What may be chosen of labels, by name; light, as it is read before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from storage.errors import FacetError

# Texts of a head that a judge is shown, of those that TextSpan picks for it; so many of a property
# count, too.
FIRST = 5
# Of these, how many fit where a head counts as about its label.
ENOUGH = 3
# In the environment: where a server is, and what it wants to be told.
BASE_URL, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"


@dataclass(frozen=True)
class Judge:
    """What says which property texts are about.

    Attributes
    ----------
    kind : {"lexicon", "openai", "transformers"}
        A list of properties, a server of the OpenAI protocol, a model on this machine.
    model : str
        The server's name of the model, or the model's folder; empty for a lexicon.
    """

    kind: Literal["lexicon", "openai", "transformers"]
    model: str = ""

    @property
    def name(self) -> str:
        """As it was asked for."""
        return f"{self.kind}:{self.model}" if self.model else self.kind


def parse_judge(text: str) -> Judge:
    """``lexicon``, ``openai:MODEL`` or ``transformers:PATH``."""
    kind, _, model = text.partition(":")
    if text == "lexicon":
        return Judge("lexicon")
    if kind == "openai" and model.strip():
        return Judge("openai", model.strip())
    if kind == "transformers" and model.strip():
        if not (Path(model) / "config.json").is_file():
            raise FacetError(
                f"`with_` {text}: there is no folder {model} with a config.json in it; give one "
                "that holds a causal language model and its tokenizer"
            )
        if find_spec("transformers") is None:
            raise FacetError(f"`with_` {text} needs pip install 'facet-interp[llm]'")
        return Judge("transformers", model)
    raise FacetError(f"`with_` {text!r}: give lexicon, openai:MODEL or transformers:PATH")


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
