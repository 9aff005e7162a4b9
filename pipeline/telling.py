"""What long work tells whoever waits for it: lines, and how far it is. A job shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime


@contextmanager
def _no_bar(what: str, total: int, kept: str = "") -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@dataclass(frozen=True)
class Teller:
    """Whom work tells how it goes; by default nobody.

    Attributes
    ----------
    say : callable
        Takes a line.
    bar : callable
        Takes what is counted, how many there are and what is kept if it is stopped half way; a
        context whose value takes the number done so far.
    wait : callable
        Takes what is done meanwhile; a context, for work that cannot be counted.
    """

    say: Callable[[str], None] = lambda line: None
    bar: Callable[..., AbstractContextManager[Callable[[int], None]]] = _no_bar
    wait: Callable[[str], AbstractContextManager[object]] = nullcontext


SILENT = Teller()


def several(number: int, what: str) -> str:
    """``1 head``, ``2 heads``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def when(stamp: str | None) -> str:
    """``2026-11-26 19:44 UTC``; empty where it is not known."""
    return "" if not stamp else f"{datetime.fromisoformat(stamp):%Y-%m-%d %H:%M} UTC"
