"""Whether a text names something: whole words, in the singular or the plural."""

from __future__ import annotations

import re
from functools import cache

_IRREGULAR = {
    "child": "children", "deer": "deer", "fish": "fish", "foot": "feet", "goose": "geese",
    "man": "men", "mouse": "mice", "ox": "oxen", "person": "people", "sheep": "sheep",
    "tooth": "teeth", "woman": "women",
}  # fmt: skip


def names(text: str, name: str) -> bool:
    """Whether a text names a thing: ``two fire trucks`` names ``truck`` and ``fire truck``.

    Parameters
    ----------
    text : str
    name : str
        A word, or several that must follow each other; a hyphen is as good as a space. Of each,
        singular and plural are one.
    """
    wanted, said = _words(name), _words(text)
    return bool(wanted) and any(
        all(map(_same, wanted, said[at : at + len(wanted)]))
        for at in range(len(said) - len(wanted) + 1)
    )


@cache
def _words(text: str) -> tuple[str, ...]:
    return tuple(
        re.sub(r"['’]s?$", "", word) for word in re.findall(r"[^\W_]+(?:['’]\w*)?", text.lower())
    )


@cache
def _same(a: str, b: str) -> bool:
    return a == b or b in _plurals(a) or a in _plurals(b)


@cache
def _plurals(word: str) -> frozenset[str]:
    """How a plural may be written: one too many hides no other word."""
    found = {f"{word}s", f"{word}es"}
    if word.endswith("y"):
        found.add(f"{word[:-1]}ies")
    if word.endswith("f"):
        found.add(f"{word[:-1]}ves")
    if word.endswith("fe"):
        found.add(f"{word[:-2]}ves")
    for one, many in _IRREGULAR.items():
        if word.endswith(one):  # firemen
            found.add(word[: -len(one)] + many)
    return frozenset(found)
