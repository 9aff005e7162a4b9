"""Descriptions of pictures with cues in them: written, filtered, chosen, and kept verbatim."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pipeline.language.choices import Chosen
from pipeline.language.loading import Writer, load_writer
from pipeline.language.threads import in_threads
from pipeline.telling import SILENT, Teller, several
from storage import urls
from storage.errors import FacetError

from . import grammar
from .prompts import question, read_list
from .rules import Rules
from .tables import DESCRIPTIONS
from .words import names

# How answers are made, by kind of model: words are drawn by chance, or all repeats would be one.
SETTINGS: dict[str, dict[str, Any]] = {
    "openai": {"temperature": 1, "max_tokens": 4096},
    "transformers": {"do_sample": True, "temperature": 1.0, "max_new_tokens": 2048},
}
SHORTER = "give fewer `cues`"
# Where answers stand until all are there.
PARTS = "answers"
# How often a model is asked, until enough of its descriptions can be used.
ATTEMPTS = 5
AGAIN = "was said before"

# A source of cues, and a repeat.
Key = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Described:
    """Descriptions, and how they came.

    Attributes
    ----------
    tables : dict of str to DataFrame
        See ``tables.DESCRIPTIONS``.
    facts : dict
        Who wrote them and how; ``left_out``, the cues that no sentence of the grammar can hold, by
        ``source.repeat``.
    """

    tables: dict[str, pd.DataFrame]
    facts: dict[str, Any]


@dataclass
class _Of:
    """What has been written of one source and repeat."""

    rows: list[dict[str, object]] = field(default_factory=list)
    answers: list[dict[str, object]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def usable(self) -> list[int]:
        return [i for i, row in enumerate(self.rows) if row["kept"]]

    def unusable(self) -> Counter[str]:
        return Counter(str(row["why"]) for row in self.rows if not row["kept"])

    def add(self, text: str, cues: Sequence[str], why: str) -> None:
        row = {"number": len(self.rows), "text": text, "cues": list(cues)}
        self.rows.append({**row, "kept": not why, "why": why, "chosen": False})


def describe(
    cues_by: Mapping[Key, Sequence[str]],
    drawn: str,
    target: str,
    synonyms: Sequence[str],
    writer: Chosen,
    ask: int,
    choose: int,
    seed: int,
    place: str,
    teller: Teller = SILENT,
    attribute: str | None = None,
) -> Described:
    """Write descriptions from every set of cues, drop those that break the rules, choose some.

    Parameters
    ----------
    cues_by : mapping of (source, repeat) to sequence of str
        Without any cue: descriptions of the drawn class alone.
    drawn, target : str
        What every description names, and what none does.
    synonyms : sequence of str
        Other names of the target.
    writer : Chosen
        One of ``WRITERS``.
    ask, choose : int
        Descriptions that are written, and that are chosen of those that can be used.
    seed : int
        Decides what is chosen and what the grammar says, and is sent to models.
    place : str
        Where answers of models stand until all are there, below ``PARTS``; what was kept is not
        asked again.
    teller : Teller
    attribute : str, optional
        Of the embedded world: what the classes are values of (see ``Rules``).

    Raises
    ------
    FacetError
        If none can be used, of any source.
    """
    rules = Rules(drawn, target, tuple(synonyms), attribute)
    if writer.kind == "grammar":
        made_by: dict[str, Any] = {}
        found = {
            key: _said(rules, cues, ask, choose, _random(seed, key))
            for key, cues in cues_by.items()
        }
    else:
        model = load_writer(writer, SETTINGS, SHORTER, teller)
        made_by = model.made_by
        found = _asked(model, rules, cues_by, ask, choose, seed, place, teller)
        _refuse_none(writer, rules, found, urls.join(place, PARTS))
    for key, of in found.items():
        rng = _random(seed, key, 1)
        usable = of.usable()
        for i in rng.permutation(len(usable))[:choose]:
            of.rows[usable[i]]["chosen"] = True
        if len(usable) < choose:
            why = "; ".join(f"{n:,} {why}" for why, n in of.unusable().items())
            teller.say(
                f"{key[0]}, repeat {key[1]}: {len(usable)} of {choose} descriptions can be used"
                + (f" ({why})" if why else "")
            )
    left_out = {f"{key[0]}.{key[1]}": of.left_out for key, of in found.items() if of.left_out}
    tables = {
        name: pd.DataFrame(
            [
                {"source": key[0], "repeat": key[1], **row}
                for key, of in found.items()
                for row in (of.rows if name == "descriptions" else of.answers)
            ],
            columns=schema.names,
        )
        for name, schema in DESCRIPTIONS.items()
    }
    return Described(tables, {"writer": writer.name, **made_by, "left_out": left_out})


def cues_in(text: str, cues: Sequence[str]) -> list[str]:
    """The cues that a text names, as they stand or in the other number."""
    return [cue for cue in cues if names(text, cue)]


def given(texts: Sequence[str], rules: Rules, cues: Sequence[str] = ()) -> pd.DataFrame:
    """Descriptions of a person's own: source ``given``, all that can be used chosen."""
    of = _Of()
    _take(of, texts, rules, cues)
    rows = [{"source": "given", "repeat": 0, **row, "chosen": row["kept"]} for row in of.rows]
    return pd.DataFrame(rows, columns=DESCRIPTIONS["descriptions"].names)


def _random(seed: int, key: Key, *more: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(key[0].encode()), key[1], *more])


def _take(of: _Of, texts: Sequence[str], rules: Rules, cues: Sequence[str]) -> None:
    """Keep what can be used of texts, and say of the others why not."""
    before = {str(row["text"]).lower() for row in of.rows}
    for text in texts:
        why = rules.why_not(text) or (AGAIN if text.lower() in before else "")
        before.add(text.lower())
        of.add(text, cues_in(text, cues), why)


def _said(
    rules: Rules, cues: Sequence[str], ask: int, choose: int, rng: np.random.Generator
) -> _Of:
    """What the grammar says; where it has fewer sentences than are chosen, it says them again."""
    of = _Of()
    say, of.left_out = grammar.sentences(rules, cues)
    told = [say(rng) for _ in range(ask)]
    few = len({text for text, _ in told if not rules.why_not(text)}) < choose
    before: set[str] = set()
    for text, some in told:
        of.add(text, some, rules.why_not(text) or (AGAIN if text in before and not few else ""))
        before.add(text)
    return of


def _asked(
    model: Writer,
    rules: Rules,
    cues_by: Mapping[Key, Sequence[str]],
    ask: int,
    choose: int,
    seed: int,
    place: str,
    teller: Teller,
) -> dict[Key, _Of]:
    """What a language model writes; each answer is kept as it comes."""

    def write(key: Key) -> _Of:
        source, repeat = key
        part = urls.join(place, PARTS, f"{source}.{repeat}.json")
        (data,) = urls.read_each([part])
        said: list[str] = [] if data is None else json.loads(data)
        of, cues = _Of(), cues_by[key]
        for attempt in range(ATTEMPTS):
            messages = question(rules, cues, ask, of.unusable())
            if attempt == len(said):
                own = int(_random(seed, key, 2, attempt).integers(2**31))
                said.append(model.ask(messages, own))
                urls.put_bytes(part, json.dumps(said).encode())
            prompt = json.dumps(messages, ensure_ascii=False)
            of.answers.append({"attempt": attempt, "prompt": prompt, "answer": said[attempt]})
            _take(of, read_list(said[attempt]), rules, cues)
            if len(of.usable()) >= choose:
                break
        return of

    found: dict[Key, _Of] = {}
    written = in_threads(write, cues_by, model.at_once)
    with teller.bar("descriptions asked for", len(cues_by), "answers so far are kept") as move:
        for key, of in zip(cues_by, written, strict=True):
            found[key] = of
            move(len(found))
    return found


def _refuse_none(writer: Chosen, rules: Rules, found: Mapping[Key, _Of], answers_at: str) -> None:
    if any(of.usable() for of in found.values()):
        return
    answers = several(sum(len(of.answers) for of in found.values()), "answer")
    why = sum((of.unusable() for of in found.values()), Counter[str]())
    told = "; ".join(f"{count:,} {reason}" for reason, count in why.most_common(4))
    raise FacetError(
        f"{writer.name} wrote no description of {rules.drawn!r} that can be used, in {answers}: "
        f"{told or 'none has a numbered or bulleted line'}. Take another model or `seed`; the "
        f"answers are in {answers_at}"
    )
