"""A language model that was chosen, ready to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.identity import held
from pipeline.telling import SILENT, Teller

from .choices import Chosen, Messages, base_url


class Ask(Protocol):
    """Gives the model's answer; the same seed is the same answer."""

    def __call__(self, messages: Messages, seed: int | None = None) -> str: ...


@dataclass(frozen=True)
class Writer:
    """A language model.

    Attributes
    ----------
    ask : Ask
    at_once : int
        Questions that may be under way at a time.
    made_by : dict
        How answers are made, and by which server: facts to keep beside them.
    """

    ask: Ask
    at_once: int
    made_by: dict[str, Any]


def load_writer(
    chosen: Chosen, settings: Mapping[str, Mapping[str, Any]], shorter: str, teller: Teller = SILENT
) -> Writer:
    """The model of a choice of ``openai`` or ``transformers``.

    Parameters
    ----------
    chosen : Chosen
    settings : mapping of str to mapping
        How answers are made, by kind: what a server is sent, what ``generate`` is given.
    shorter : str
        What makes questions shorter, for those that are too long for the model.
    teller : Teller
    """
    of_kind = settings[chosen.kind]
    made_by: dict[str, Any] = {"settings": dict(of_kind)}
    if chosen.kind == "openai":
        from .servers import AT_ONCE, Server

        url = base_url()
        return Writer(Server(url, chosen.model, of_kind), AT_ONCE, {"server": url, **made_by})
    from .local import LocalModel  # brings torch

    with teller.wait("loading the language model"):
        return Writer(LocalModel(chosen.model, of_kind, shorter), 1, made_by)


def choice_identity(chosen: Chosen) -> str:
    """What decides a choice's answers: its name, or what a model's folder holds."""
    if chosen.kind != "transformers":
        return chosen.name
    return f"transformers:{held(chosen.model)}"
