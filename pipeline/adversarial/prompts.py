"""What a language model is asked to describe, and how its answers are read.

In substance the prompt of Gandelsman 2025 (Table B.2): short descriptions that name the drawn
class, never the target, and hold as many cues as go together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.language.choices import Messages
from pipeline.microworld.captions import NUMBER
from pipeline.microworld.world import ATTRIBUTES

from .rules import Rules

_SYSTEM = (
    "You write descriptions of pictures. Each is given, as it stands, to a model that draws what a "
    "text says."
)
_LINE = re.compile(r"^\s*(?:\(?\d{1,3}[.):]\s*(?=\D)|[-*•–]\s+)(.*\S)")


def question(
    rules: Rules, cues: Sequence[str], number: int, unusable: Mapping[str, int]
) -> Messages:
    """What a model is asked.

    Parameters
    ----------
    rules : Rules
    cues : sequence of str
        None of them: ordinary pictures of the drawn class are asked for.
    number : int
        Of descriptions.
    unusable : mapping of str to int
        Why descriptions of earlier answers could not be used, and how many.
    """
    asked = [
        f"Write {number} short descriptions of pictures, one a line, numbered.",
        f"Each holds the word {rules.drawn!r}: it is plain to see in the picture.",
        f"None holds the word {rules.target!r}, in the singular or the plural, another word for "
        "it, the name of a kind or a part of it, or of what looks much like it: not even where the "
        "list below has it.",
    ]
    if rules.synonyms:
        asked.append(f"Nor any of these: {'; '.join(rules.synonyms)}.")
    if cues:
        asked += [
            "Each holds as many things of the list as go together in one picture, and few words "
            "else. Prefer what can be seen: things, animals, colours, materials. Of a place or a "
            "person say what one knows it by, as the tower of a city. Leave out what you do not "
            "know the meaning of.",
            f"The list: {'; '.join(cues)}.",
        ]
    else:
        asked.append("Let them be ordinary pictures, each another.")
    if rules.attribute is not None:
        values = [str(v) for name, of in ATTRIBUTES.items() if name != "count" for v in of]
        asked.append(
            "Nothing but this can be drawn, one value of a kind in a picture, but that beside one "
            "shape, after the word 'and', a second may stand, with its own colour and so on: "
            f"{', '.join([*values, *NUMBER.values()])}. Use small words beside it, no others."
        )
    if unusable:
        told = "; ".join(f"{count} because it {why}" for why, count in unusable.items())
        asked.append(f"Of your last answers, these could not be used: {told}. Write others.")
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": "\n".join(asked)},
    ]


def read_list(answer: str) -> list[str]:
    """The numbered or bulleted lines of an answer; what a model thinks aloud is left out."""
    said = re.sub(r"<think>.*?(?:</think>|\Z)", "", answer, flags=re.DOTALL)
    lines = [met[1] for line in said.splitlines() if (met := _LINE.match(line))]
    plain = [" ".join(line.replace("**", "").split()).strip(" \"'“”`*_") for line in lines]
    return [line for line in plain if line]
