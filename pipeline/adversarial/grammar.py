"""Descriptions without a language model: sentences of a drawn class and a few cues.

Of pictures in general they put things side by side: ``a photo of a cat next to an elephant``. Of
the embedded world they are its captions (``microworld.captions``), with the values that cues name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.microworld.captions import OPENING, phrase

from .rules import Rules, values_of

# Cues that go into one description, at most.
TOGETHER = 3
_JOINTS = ("next to", "beside", "in front of", "with")
# How descriptions of pictures begin that say nothing of what is seen.
_BEGINNING = re.compile(
    r"^(?:an? |the )?(?:[\w-]+ )?(?:image|photo|photograph|picture|drawing|painting|silhouette)s?"
    r" (?:of|with|featuring|showing|showcasing|depicting|capturing|portraying) ",
    re.IGNORECASE,
)
_DETERMINED = frozenset(
    ("a", "an", "the", "one", "two", "three", "four", "some", "many", "several", "his", "her")
)

# Gives a sentence, and which cues are in it; and takes the random numbers.
Say = Callable[[np.random.Generator], tuple[str, list[str]]]


def sentences(rules: Rules, cues: Sequence[str]) -> tuple[Say, list[str]]:
    """What says one sentence after the other, and the cues that cannot be put into any."""
    if rules.attribute is None:
        usable = [cue for cue in cues if not rules.named(cue, rules.drawn)]

        def say(rng: np.random.Generator) -> tuple[str, list[str]]:
            some = _some(usable, rng)
            joint = _JOINTS[rng.integers(len(_JOINTS))]
            beside = f" {joint} {' and '.join(map(_a_thing, some))}" if some else ""
            return _opening(rng) + _a_thing(rules.drawn) + beside, some

    else:
        usable = [cue for cue in cues if _with(rules, rules.values(rules.drawn), cue)]

        def say(rng: np.random.Generator) -> tuple[str, list[str]]:
            return _of_the_world(rules, usable, rng)

    return say, [cue for cue in cues if cue not in usable]


def _of_the_world(
    rules: Rules, cues: Sequence[str], rng: np.random.Generator
) -> tuple[str, list[str]]:
    """A caption of the drawn class with what cues name, as far as they go together."""
    values = rules.values(rules.drawn)
    some: list[str] = []
    most = 1 + int(rng.integers(TOGETHER))
    for i in rng.permutation(len(cues)):
        more = _with(rules, values, cues[i])
        if len(some) < most and more is not None and len(more) > len(values):
            values, some = more, [*some, cues[i]]
    # Where nothing says how many, one or several, as in captions; a place is of one alone.
    several = "place" not in values and rng.random() < 0.5
    count = int(values.get("count", 2 if several else 1))
    labels = {"shape": "thing", **values, "count": count}
    setting, where = (int(n) for n in rng.integers(2, size=2))
    return _opening(rng) + phrase(labels, {"shape", *values}, setting, where), some


def _with(rules: Rules, values: dict[str, str], cue: str) -> dict[str, str] | None:
    """Values with those of a cue; None where they do not go together, or it has none.

    Of what the drawn class is, a cue says nothing: ``a circle on snow`` is a star on snow.
    """
    own = rules.values(rules.drawn)
    said = [(name, value) for name, value in values_of(cue) if name not in own]
    more = {**values, **dict(said)}
    together = len(dict(said)) == len(said) and all(more[n] == v for n, v in values.items())
    crowded = "place" in more and more.get("count", "1") != "1"  # groups fill the picture
    target = rules.values(rules.target).items()
    return more if said and together and not crowded and not target <= more.items() else None


def _some(cues: Sequence[str], rng: np.random.Generator) -> list[str]:
    most = min(1 + int(rng.integers(TOGETHER)), len(cues))
    return [cues[i] for i in rng.permutation(len(cues))[:most]]


def _opening(rng: np.random.Generator) -> str:
    return OPENING[rng.integers(len(OPENING))]


def _a_thing(cue: str) -> str:
    """``an elephant`` for ``elephant``; what has an article, or is a plural, stays as it is."""
    said = _BEGINNING.sub("", cue).strip(" .") or cue
    first, last = said.split()[0].lower(), said.split()[-1].lower()
    if first in _DETERMINED or (last.endswith("s") and not last.endswith("ss")):
        return said
    return f"{'an' if first[0] in 'aeiou' else 'a'} {said}"
