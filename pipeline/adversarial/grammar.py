"""Descriptions without a language model: sentences of a drawn class and a few cues.

Of pictures in general they put things side by side: ``a photo of a cat next to an elephant``. Of
the embedded world they are its captions (``microworld.captions``), with the values that cues name,
and another shape beside the drawn one where a cue names it, as in ``a star and a checked circle on
snow``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.microworld.captions import OPENING, phrase

from .renderer import MOST
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
        bare = _Seen(rules.values(rules.drawn), {})
        usable = [cue for cue in cues if _with(rules, bare, cue)]

        def say(rng: np.random.Generator) -> tuple[str, list[str]]:
            return _of_the_world(rules, usable, rng)

    return say, [cue for cue in cues if cue not in usable]


@dataclass(frozen=True)
class _Seen:
    """What a caption names: values of the drawn class, and of another shape beside it, if any."""

    drawn: dict[str, str]
    beside: dict[str, str]

    def least(self) -> int:
        """How many objects there are at least."""
        return sum(int(of.get("count", 1)) for of in (self.drawn, self.beside) if of)

    def has_room(self) -> bool:
        """Whether it can be drawn: several fill the picture, a quarter each, and have no place."""
        return self.least() <= (1 if "place" in {**self.drawn, **self.beside} else MOST)


def _of_the_world(
    rules: Rules, cues: Sequence[str], rng: np.random.Generator
) -> tuple[str, list[str]]:
    """A caption of the drawn class with what cues name, as far as they go together."""
    seen = _Seen(rules.values(rules.drawn), {})
    some: list[str] = []
    most = 1 + int(rng.integers(TOGETHER))
    for i in rng.permutation(len(cues)):
        more = _with(rules, seen, cues[i])
        if len(some) < most and more not in (None, seen):
            seen, some = more, [*some, cues[i]]
    # Where nothing says how many, one or several, as in captions; a place is of one alone.
    spare = MOST - seen.least()
    several = "place" not in seen.drawn and rng.random() < 0.5 and spare > 0
    count = int(seen.drawn.get("count", 2 if several else 1))
    setting, where = (int(n) for n in rng.integers(2, size=2))
    said = _opening(rng)
    last = seen.drawn
    if seen.beside:  # what both share, the background, is said of the last
        own = {name: value for name, value in seen.drawn.items() if name != "background"}
        said += f"{phrase({**own, 'count': count}, set(own))} and "
        spare -= count - int(seen.drawn.get("count", 1))
        several = rng.random() < 0.5 and spare > 0
        count = int(seen.beside.get("count", 2 if several else 1))
        last = {**{n: v for n, v in seen.drawn.items() if n not in own}, **seen.beside}
    labels = {"shape": "thing", **last, "count": count}
    return said + phrase(labels, {"shape", *last}, setting, where), some


def _with(rules: Rules, seen: _Seen, cue: str) -> _Seen | None:
    """What is seen with what a cue names; None where that does not go together, or is nothing.

    A cue of another shape puts it beside the drawn one, with its own colour and so on: ``a circle
    on snow`` is a star and a circle on snow. Of all else that the drawn class is, a cue says
    nothing.
    """
    own = rules.values(rules.drawn)
    said = [
        (name, value)
        for name, value in values_of(cue)
        if name not in own or (name == "shape" and value != own[name])
    ]
    new = dict(said)
    background = {name: new.pop(name) for name in ("background",) if name in new}
    if "shape" in own and "shape" in new:
        more = _Seen({**seen.drawn, **background}, {**seen.beside, **new})
    else:
        more = _Seen({**seen.drawn, **background, **new}, seen.beside)
    together = len(dict(said)) == len(said) and (
        seen.drawn.items() <= more.drawn.items() and seen.beside.items() <= more.beside.items()
    )
    target = rules.values(rules.target).items()
    is_target = target <= more.drawn.items() or target <= {**more.drawn, **more.beside}.items()
    return more if said and together and more.has_room() and not is_target else None


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
