"""Heads labelled by hand, which show a language model what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pipeline.texts.classes import PoolError

from .lexicon import sections

# What a text that its head's label does not fit begins with.
NOT = "- "


@dataclass(frozen=True)
class Example:
    """A head's texts, its label, and which of the texts it fits."""

    label: str
    texts: tuple[str, ...]
    fits: tuple[bool, ...]


def load_examples(source: str | Path | None) -> tuple[Example, ...]:
    """Examples from a text file; by default the five that come with the code.

    Parameters
    ----------
    source : str or Path, optional
        A label in brackets on a line of its own, and under it a head's texts, one a line; a text
        that does not fit begins with a minus.
    """
    if source is None:
        data = (files(__package__) / "examples.txt").read_bytes()
    elif Path(source).is_file():
        data = Path(source).read_bytes()
    else:
        raise PoolError(f"`examples` {source}: there is no such file")
    found = sections(f"the file of examples {source}", data)
    if not found:
        raise PoolError(f"the file of examples {source} is empty: give one example at least")
    return tuple(
        Example(
            label,
            tuple(text.removeprefix(NOT).strip() for text in texts),
            tuple(not text.startswith(NOT) for text in texts),
        )
        for label, texts in found.items()
    )
