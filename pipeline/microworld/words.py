"""Which attributes of the embedded world a text names."""

from __future__ import annotations

from .captions import NUMBER, PLURAL
from .world import ATTRIBUTES


def _microworld_words() -> dict[str, str]:
    words = {str(v): name for name, values in ATTRIBUTES.items() for v in values}
    words |= {PLURAL.get(shape, f"{shape}s"): "shape" for shape in ATTRIBUTES["shape"]}
    words |= {NUMBER[count]: "count" for count in ATTRIBUTES["count"]}
    return words | {"brick": "background"}


_ATTRIBUTE_OF = _microworld_words()


def microworld_attributes(text: str) -> set[str]:
    """Attributes of the embedded world that a text names, for example ``{"colour", "shape"}``."""
    return {_ATTRIBUTE_OF[word] for word in text.lower().split() if word in _ATTRIBUTE_OF}
