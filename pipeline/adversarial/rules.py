"""What a description must name, and what it must not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.microworld.captions import GROUP
from pipeline.microworld.words import microworld_values

from .words import names

# Characters of a description; text-to-image models read less.
LONGEST = 400


@dataclass(frozen=True)
class Rules:
    """What decides whether a description can be used.

    Attributes
    ----------
    drawn, target : str
        Classes: what pictures show, and what the model should take them for.
    synonyms : tuple of str
        Further names of the target.
    attribute : str or None
        Of the embedded world: what the classes are values of, such as ``shape``; ``group`` for a
        shape on a background. There, a name is whatever word means the value.
    """

    drawn: str
    target: str
    synonyms: tuple[str, ...] = ()
    attribute: str | None = None

    def values(self, name: str) -> dict[str, str]:
        """What a class of the embedded world is: attributes and values."""
        if self.attribute == GROUP:
            shape, _, background = name.partition("/")
            return {"shape": shape, "background": background}
        return {} if self.attribute is None else {self.attribute: name}

    def named(self, text: str, name: str) -> bool:
        """Whether a text names a class."""
        wanted = self.values(name).items()
        return wanted <= values_of(text) if wanted else names(text, name)

    def forbidden(self, text: str) -> str | None:
        """The name of the target that a text has; None where it has none."""
        if self.named(text, self.target):
            return self.target
        return next((name for name in self.synonyms if names(text, name)), None)

    def why_not(self, text: str) -> str:
        """Why a description cannot be used; empty where it can."""
        if len(text) > LONGEST:
            return f"has more than {LONGEST} characters"
        if met := self.forbidden(text):
            return f"names {met}"
        return "" if self.named(text, self.drawn) else f"does not name {self.drawn}"


def attribute_of(classes: str) -> str | None:
    """What classes are values of, by where they come from; None outside of the embedded world."""
    world, _, attribute = classes.strip().partition(":")
    return attribute.partition("=")[0] if world == "microworld" else None


def values_of(text: str) -> frozenset[tuple[str, str]]:
    """The values of the embedded world that a text names, whatever stands between its words."""
    return microworld_values(" ".join(re.findall(r"\w+", text)))
