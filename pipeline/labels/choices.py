"""What may be chosen of labels, by name; light, as it is read before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from storage.errors import FacetError
from storage.objects import refuse_credentials

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
        If the environment does not say, or says no web address.
    """
    url = os.environ.get(BASE_URL, "").strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        said = f"is {url!r}" if url else "is not set"
        raise FacetError(
            f"{BASE_URL} {said}: set it to the address of a server of the OpenAI protocol, such as "
            f"http://localhost:8000/v1, and {KEY} where the server wants a key"
        )
    refuse_credentials(url)
    return url
