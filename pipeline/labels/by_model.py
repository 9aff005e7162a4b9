"""A language model as the judge: what it is asked, how its answers are read and kept.

A head's label is asked for as in "Quantifying and Enabling the Interpretability of CLIP-like
Models" (2024, section 3): texts of heads that were labelled by hand, then those of the head. A
second question asks which texts the label fits. An answer that cannot be read is asked for again,
with the model's own words before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.heads.choices import Head
from pipeline.language.choices import Messages
from pipeline.language.threads import in_threads
from pipeline.telling import SILENT, Teller
from storage import urls

from .choices import FIRST
from .examples import Example
from .tables import LABELS

Ask = Callable[[Messages], str]

# How answers are made, by kind of model: the likeliest word each time.
SETTINGS: dict[str, dict[str, Any]] = {
    "openai": {"temperature": 0, "max_tokens": 512},
    "transformers": {"do_sample": False, "max_new_tokens": 256},
}
SHORTER = "give fewer `examples`, a shorter `lexicon`"
# Where answers stand until all heads have theirs.
PARTS = "answers"
LONGEST_LABEL = 60


@dataclass(frozen=True)
class Question:
    """What is asked, what an answer means (None: it cannot be read), and how it is asked again."""

    messages: Messages
    read: Callable[[str], object]
    again: str


@dataclass(frozen=True)
class Judged:
    """What a model said of a head.

    Attributes
    ----------
    label : str or None
    fits : tuple of bool
        Of every text; none where nothing was to be read.
    answers : list of dict
        Question, attempt, prompt (JSON), answer and whether it was read, verbatim.
    """

    label: str | None
    fits: tuple[bool, ...]
    answers: list[dict[str, object]]

    @property
    def unread(self) -> bool:
        """Whether a question has no answer that could be read."""
        return bool(self.answers) and not self.answers[-1]["read"]


def label_question(
    texts: Sequence[str], examples: Sequence[Example], properties: Sequence[str]
) -> Question:
    """Which property texts have in common."""
    system = (
        "Short texts describe what one part of an image model responds to. Name the one property "
        f"that they have in common. Properties are, for example: {', '.join(properties)}. Use one "
        "of these words where it fits, or else your own. Answer with one line and nothing else:\n"
        "label: PROPERTY"
    )
    shown = [(numbered(e.texts), f"label: {e.label}") for e in examples]
    again = "That could not be read. Answer with one line and nothing else:\nlabel: PROPERTY"
    return Question(_messages(system, shown, numbered(texts)), read_label, again)


def fits_question(label: str, texts: Sequence[str], examples: Sequence[Example]) -> Question:
    """Which texts a label fits."""
    system = (
        "You are given a property and numbered texts. Say which of the texts are about the "
        "property. Answer with one line and nothing else, the numbers of these texts or none:\n"
        "fits: NUMBERS"
    )
    shown = [(_asked(e.label, e.texts), f"fits: {_numbers(e.fits)}") for e in examples]
    again = "That could not be read. Answer with one line and nothing else:\nfits: NUMBERS"
    return Question(
        _messages(system, shown, _asked(label, texts)), lambda a: read_fits(a, len(texts)), again
    )


def numbered(texts: Sequence[str]) -> str:
    """Texts as a prompt has them, from 1."""
    return "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def _asked(label: str, texts: Sequence[str]) -> str:
    return f"property: {label}\n{numbered(texts)}"


def _numbers(fits: Sequence[bool]) -> str:
    return ", ".join(str(i) for i, fit in enumerate(fits, 1) if fit) or "none"


def _messages(system: str, shown: Sequence[tuple[str, str]], asked: str) -> Messages:
    messages = [{"role": "system", "content": system}]
    for question, answer in shown:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    return [*messages, {"role": "user", "content": asked}]


def _line(answer: str, name: str) -> str | None:
    """What the last line of that name says; models may think aloud before it."""
    found = re.findall(rf"(?im)^[\s*>`-]*{name}\**\s*:\**[^\S\n]*(.*)$", answer)
    return found[-1].strip(" \t\r*`\"'.") if found else None


def read_label(answer: str) -> str | None:
    """``label: Colours.`` is ``colours``; None where there is no such line, or no label in it."""
    said = " ".join((_line(answer, "label") or "").split()).lower()
    plain = 0 < len(said) <= LONGEST_LABEL and re.search(r"\w", said)
    return said if plain and said not in ("property", "none", "unknown") else None


def read_fits(answer: str, texts: int) -> tuple[bool, ...] | None:
    """``fits: 1, 3`` of so many texts; None where no such line is, or it says other things."""
    said = (_line(answer, "fits") or "").lower()
    if said == "none":
        return (False,) * texts
    if not re.fullmatch(r"\d+(?:(?:\s*,\s*|\s+|\s*,?\s+and\s+)\d+)*", said):
        return None
    numbers = {int(n) for n in re.findall(r"\d+", said)}
    if not numbers <= set(range(1, texts + 1)):
        return None
    return tuple(i in numbers for i in range(1, texts + 1))


def answer_table(judged: Mapping[Head, Judged]) -> pd.DataFrame:
    """All that was asked and answered, in the order in which it was."""
    rows = [row for of in judged.values() for row in of.answers]
    return pd.DataFrame(rows, columns=LABELS["answers"].names)


def judge_heads(
    ask: Ask,
    texts: Mapping[Head, Sequence[str]],
    examples: Sequence[Example],
    properties: Sequence[str],
    attempts: int,
    place: str,
    at_once: int = 1,
    teller: Teller = SILENT,
) -> dict[Head, Judged]:
    """Ask of every head; each answer is kept as it comes, and what was kept is not asked again.

    Parameters
    ----------
    ask : callable
        Takes messages, gives the model's answer; called from several threads.
    texts : dict of (layer, head) to sequence of str
        The first texts of every head; a head without any has no label.
    examples : sequence of Example
    properties : sequence of str
        Labels that are suggested.
    attempts : int
        How often a question is put, until an answer can be read.
    place : str
        Where answers stand until all are there: one file a head, below ``PARTS``.
    at_once : int
        Questions under way at a time.
    teller : Teller
    """

    def judge(head: Head) -> Judged:
        if not texts[head]:
            return Judged(None, (), [])
        part = urls.join(place, PARTS, "{}.{}.json".format(*head))
        (data,) = urls.read_each([part])
        kept: dict[str, list[str]] = {} if data is None else json.loads(data)
        answers: list[dict[str, object]] = []

        def put(name: str, question: Question) -> object:
            messages = list(question.messages)
            said = kept.setdefault(name, [])
            for attempt in range(attempts):
                if attempt == len(said):
                    said.append(ask(messages))
                    urls.put_bytes(part, json.dumps(kept).encode())
                found = question.read(said[attempt])
                answers.append(
                    {
                        "layer": head[0],
                        "head": head[1],
                        "question": name,
                        "attempt": attempt,
                        "prompt": json.dumps(messages, ensure_ascii=False),
                        "answer": said[attempt],
                        "read": found is not None,
                    }
                )
                if found is not None:
                    return found
                messages += [
                    {"role": "assistant", "content": said[attempt]},
                    {"role": "user", "content": question.again},
                ]
            return None

        first = list(texts[head])[:FIRST]
        label = put("label", label_question(first, examples, properties))
        if not isinstance(label, str):
            return Judged(None, (), answers)
        fits = put("fits", fits_question(label, first, examples))
        return Judged(label, fits if isinstance(fits, tuple) else (), answers)

    found: dict[Head, Judged] = {}
    with teller.bar("heads labelled", len(texts), "answers so far are kept") as move:
        for head, judged in zip(texts, in_threads(judge, texts, at_once), strict=True):
            found[head] = judged
            move(len(found))
    return found
