"""Which attributes of the embedded world a text names."""

from __future__ import annotations

from .captions import NUMBER, PLURAL
from .world import ATTRIBUTES


def _microworld_words() -> dict[str, tuple[str, str]]:
    words = {str(v): (name, str(v)) for name, values in ATTRIBUTES.items() for v in values}
    words |= {PLURAL.get(s, f"{s}s"): ("shape", s) for s in ATTRIBUTES["shape"]}
    words |= {NUMBER[count]: ("count", str(count)) for count in ATTRIBUTES["count"]}
    return words | {"brick": ("background", "bricks")}


_NAMED_BY = _microworld_words()


def microworld_attributes(text: str) -> set[str]:
    """Attributes of the embedded world that a text names, for example ``{"colour", "shape"}``."""
    return {attribute for attribute, _ in microworld_values(text)}


def microworld_values(text: str) -> frozenset[tuple[str, str]]:
    """The values that it names, for example ``{("colour", "red"), ("shape", "star")}``."""
    return frozenset(_NAMED_BY[word] for word in text.lower().split() if word in _NAMED_BY)
