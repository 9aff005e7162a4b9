"""Descriptions: what a grammar says, what models are asked and answer, what cannot be used."""

import itertools
import json
import re

import numpy as np
import pytest
from tenacity import wait_none

from pipeline.adversarial import descriptions
from pipeline.adversarial.descriptions import AGAIN, ATTEMPTS, SETTINGS, Described, describe, given
from pipeline.adversarial.grammar import sentences
from pipeline.adversarial.prompts import question, read_list
from pipeline.adversarial.renderer import read
from pipeline.adversarial.rules import LONGEST, Rules
from pipeline.adversarial.tables import DESCRIPTIONS
from pipeline.language import servers
from pipeline.language.choices import BASE_URL, Chosen
from pipeline.microworld.captions import OPENING, phrase
from pipeline.microworld.words import microworld_values
from pipeline.microworld.world import ATTRIBUTES
from pipeline.texts import load_pool
from storage.errors import FacetError
from storage.results import as_table
from tests.pipeline.language.chat_kit import content, served
from tests.pipeline.language.local_kit import tiny_model
from tests.refusals import refused

STAR = Rules("star", "heart", ("love",), "shape")
GRAMMAR = Chosen("grammar")
SERVER = Chosen("openai", "small")
CUES = {("second-order", 0): ["on snow", "a red thing"], ("none", 0): []}


def wrote(cues_by, writer=GRAMMAR, place="", *, ask=12, choose=5, seed=0, **more) -> Described:
    pair = {"drawn": "star", "target": "heart", "synonyms": ["love"], "attribute": "shape", **more}
    return describe(
        cues_by, writer=writer, ask=ask, choose=choose, seed=seed, place=str(place), **pair
    )


def rows(found: Described):
    table = found.tables["descriptions"]
    as_table(table, DESCRIPTIONS["descriptions"])  # as it is kept
    return table


# -- rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("two red stars on snow", ""),
        ("A Star, in the snow.", ""),
        ("a red thing", "does not name star"),
        ("a starfish", "does not name star"),
        ("a star and two hearts", "names heart"),
        ("a star of love", "names love"),
        ("a star " * LONGEST, f"has more than {LONGEST} characters"),
    ],
)
@pytest.mark.parametrize("attribute", [None, "shape"])
def test_what_a_description_must_name_and_must_not(text, why, attribute):
    assert Rules("star", "heart", ("love",), attribute).why_not(text) == why


def test_classes_of_the_embedded_world_are_named_by_any_word_for_them():
    two = Rules("2", "3", attribute="count")
    assert two.why_not("two stars") == ""
    assert two.why_not("three stars") == "names 3"
    group = Rules("star/night", "star/snow", attribute="group")
    assert group.why_not("three stars under a night sky") == ""
    assert group.why_not("a star in the snow") == "names star/snow"
    assert group.why_not("a star") == "does not name star/night"


# -- the grammar ---------------------------------------------------------------------------


def plainly(rules: Rules, text: str, cues: list[str]) -> None:
    """A caption of the drawn class and of nothing but what its cues name."""
    own = rules.values(rules.drawn)
    drawn, beside = dict(own), {}
    for cue in cues:
        other = others(rules, cue)
        said = {(a, v) for a, v in microworld_values(cue) if a not in own or v in other}
        assert said, cue
        for a, v in said:
            assert (beside if other and a != "background" else drawn).setdefault(a, v) == v

    def captions(values):
        lone = not beside and "place" in values
        some = [int(values["count"])] if "count" in values else [1] if lone else [1, 2]
        return {
            phrase({"shape": "thing", **values, "count": n}, {"shape", *values}, setting, where)
            for n in some
            for setting in range(2)
            for where in range(2)
        }

    if beside:
        ground = {a: v for a, v in drawn.items() if a == "background"}
        first = captions({a: v for a, v in drawn.items() if a not in ground})
        whole = {f"{a} and {b}" for a in first for b in captions({**beside, **ground})}
    else:
        whole = captions(drawn)
    assert text in {opening + said for opening in OPENING for said in whole}
    assert rules.why_not(text) == ""
    told = read(text)  # refuses what it cannot draw
    assert len(told) == (2 if beside else 1)
    for values, of in zip((drawn, beside), told, strict=False):
        assert values.items() <= {**of.values, "count": str(of.counts[0])}.items()


def others(rules: Rules, cue: str) -> set[str]:
    """The shapes of a cue beside a drawn shape."""
    own = rules.values(rules.drawn).get("shape")
    return {v for a, v in microworld_values(cue) if a == "shape" and own not in (None, v)}


@pytest.mark.parametrize("seed", range(5))
def test_captions_of_the_embedded_world_hold_what_cues_name(seed):
    rng = np.random.default_rng(seed)
    texts = load_pool("microworld").texts
    attribute = list(ATTRIBUTES)[rng.integers(len(ATTRIBUTES))]
    drawn, target = rng.choice(ATTRIBUTES[attribute], 2, replace=False)
    rules = Rules(str(drawn), str(target), (), attribute)
    cues = [texts[i] for i in rng.choice(len(texts), 25, replace=False)]
    say, left_out = sentences(rules, cues)
    used = set()
    for _ in range(60):
        text, some = say(rng)
        plainly(rules, text, some)
        used |= set(some)
    assert used <= set(cues)
    assert not used & set(left_out)
    for cue in left_out:  # nothing of it could stand beside the drawn class
        if others(rules, cue):
            assert str(target) in others(rules, cue) or ("count", "4") in microworld_values(cue)
            continue
        values = {(a, v) for a, v in microworld_values(cue) if a != attribute}
        crowd = attribute == "count" and drawn > 1 and "place" in dict(values)
        lone = {"place", "count"} <= dict(values).keys() or attribute == "place"
        assert not values or crowd or (lone and "count" in dict(values))


def test_cues_that_no_caption_can_hold():
    cues = [
        "four moons", "a circle on the left", "two hearts", "a moon and a ring", "a star",
        "a thing", "red and blue", "a red thing", "a circle in the sea", "a checked moon",
        "three moons",
    ]  # fmt: skip
    say, left_out = sentences(STAR, cues)
    assert left_out == cues[:7]
    told = [say(np.random.default_rng(i)) for i in range(200)]
    said = {text for text, _ in told}
    assert any("red star" in text for text in said)
    assert any(re.search(r"stars? and (a circle|circles) (in|on) the sea$", text) for text in said)
    assert any("three checked moons" in text for text in said)
    assert not any("moon" in text and "circle" in text for text in said)
    for text, some in told:
        plainly(STAR, text, some)


def test_what_stands_beside_a_shape_on_a_background_shares_that():
    rules = Rules("star/night", "circle/night", attribute="group")
    cues = ["a moon on snow", "a circle", "a star", "on snow", "a red ring"]
    say, left_out = sentences(rules, cues)
    assert left_out == ["a circle", "a star", "on snow"]
    for i in range(40):
        text, some = say(np.random.default_rng(i))
        plainly(rules, text, some)
        assert "snow" not in text


def test_a_sentence_of_any_classes_puts_things_side_by_side():
    cues = ["elephant", "Image with a wooden cutting board.", "stop signs", "cats"]
    say, left_out = sentences(Rules("cat", "dog"), cues)
    assert left_out == ["cats"]
    things = {"elephant": "an elephant", cues[1]: "a wooden cutting board", cues[2]: cues[2]}
    joints = "next to|beside|in front of|with"
    for seed in range(40):
        text, some = say(np.random.default_rng(seed))
        beside = " and ".join(re.escape(things[cue]) for cue in some)
        assert re.fullmatch(rf"(an? \w+ of )?a cat ({joints}) {beside}", text)
        assert 1 <= len(some) <= 3
    alone, _ = sentences(Rules("cat", "dog"), [])
    assert alone(np.random.default_rng(0))[0].endswith("a cat")


def test_as_many_are_chosen_as_are_asked_for_and_the_seed_decides():
    found = wrote(CUES, ask=40, choose=9)
    table = rows(found)
    assert found.facts == {"writer": "grammar", "left_out": {}}
    for source, of in table.groupby("source"):
        assert of["number"].tolist() == list(range(40))
        assert of["chosen"].sum() == 9
        assert of.loc[of["chosen"], "kept"].all()
        distinct = of.loc[of["kept"], "text"].nunique()
        if source == "none":  # eight ways to say star and stars: it says them again
            assert distinct == 2 * len(OPENING)
            assert of["kept"].all()
        else:
            assert distinct == of["kept"].sum() >= 9
            assert set(of.loc[~of["kept"], "why"]) == {AGAIN}
    assert rows(wrote(CUES, ask=40, choose=9)).equals(table)
    assert not rows(wrote(CUES, ask=40, choose=9, seed=1)).equals(table)
    more = wrote({("random", 3): ["four moons"], **CUES}, ask=40, choose=9)
    assert more.facts["left_out"] == {"random.3": ["four moons"]}
    same = rows(more)
    same = same[same["source"] != "random"].reset_index(drop=True)
    assert same.equals(table)  # other sources change nothing


# -- language models -----------------------------------------------------------------------


def test_what_a_model_is_asked():
    system, user = question(Rules("cat", "dog", ("puppy",)), ["elephant", "mango"], 7, {})
    assert system["role"] == "system"
    asked = user["content"]
    for told in ("Write 7 ", "'cat'", "'dog'", "any of these: puppy", "elephant; mango"):
        assert told in asked
    assert "can be drawn" not in asked
    assert "could not be used" not in asked
    alone = question(Rules("cat", "dog"), [], 7, {"names dog": 3})[1]["content"]
    assert "ordinary pictures" in alone
    assert "The list" not in alone
    assert "3 because it names dog" in alone
    assert "striped" in question(STAR, [], 7, {})[1]["content"]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Here you are:\n1. A cat.\n2) “Two cats”\n", ["A cat.", "Two cats"]),
        ("* **A cat** in snow\n- a cat\n• cats", ["A cat in snow", "a cat", "cats"]),
        ("<think>1. no\n2. no</think>\n(3) A  cat", ["A cat"]),
        ("<think>\n1. a cat, and then", []),
        ("A cat.\nAnother cat.", []),
        ("10.5 cats", []),
        ("1.\n-", []),
    ],
)
def test_numbered_and_bulleted_lines_are_read(answer, read):
    assert read_list(answer) == read


@pytest.fixture
def chat(monkeypatch):
    monkeypatch.setattr(servers, "WAIT", wait_none())
    with served() as found:
        monkeypatch.setenv(BASE_URL, found.url)
        yield found


def listed(*texts: str) -> tuple[int, str]:
    return content("\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1)))


def test_answers_are_filtered_and_kept_as_they_came(chat, tmp_path):
    first = ["a star on snow", "A star on snow", "a heart on snow", "a moon", "a star, in love"]
    replies = [listed(*first), listed("two stars in the snow", "a red thing beside a star")]
    chat.reply = lambda body: replies[len(chat.asked) - 1]
    found = wrote({("second-order", 1): ["on snow", "red thing"]}, SERVER, tmp_path, choose=3)
    table = rows(found)
    assert table["why"].tolist() == [
        "", AGAIN, "names heart", "does not name star", "names love", "", "",
    ]  # fmt: skip
    assert table["number"].tolist() == list(range(7))
    assert table["cues"].tolist()[:2] == [["on snow"], ["on snow"]]
    assert table["cues"].tolist()[5:] == [[], ["red thing"]]
    assert table["chosen"].tolist() == table["kept"].tolist()
    answers = found.tables["answers"]
    assert answers["answer"].tolist() == [
        json.loads(body)["choices"][0]["message"]["content"] for _, body in replies
    ]
    assert [json.loads(p) for p in answers["prompt"]] == [b["messages"] for b in chat.asked]
    assert "1 because it was said before" in chat.asked[1]["messages"][1]["content"]
    assert {body["temperature"] for body in chat.asked} == {1}
    assert len({body["seed"] for body in chat.asked}) == 2
    assert found.facts["server"] == chat.url
    assert found.facts["settings"] == SETTINGS["openai"]
    # What was kept is not asked again.
    assert rows(wrote({("second-order", 1): ["on snow", "red thing"]}, SERVER, tmp_path, choose=3)
                ).equals(table)  # fmt: skip
    assert len(chat.asked) == 2


def test_a_server_that_fails_half_way_costs_no_answer(chat, tmp_path):
    cues_by = {("second-order", i): ["on snow"] for i in range(12)}

    def reply(body: dict) -> tuple[int, str]:
        # The answer is the seed's alone, as servers that heed it have it.
        return listed(*(f"a star on snow {body['seed']}-{i}" for i in range(3)))

    count = itertools.count()  # several ask at once
    chat.reply = lambda body: reply(body) if next(count) < 5 else (500, "")
    with refused(FacetError, "no answer in 5 tries"):
        wrote(cues_by, SERVER, tmp_path, choose=3)
    chat.reply, tired = reply, len(chat.asked)
    found = wrote(cues_by, SERVER, tmp_path, choose=3)
    assert len(chat.asked) - tired == 12 - 5
    assert rows(wrote(cues_by, SERVER, tmp_path / "new", choose=3)).equals(rows(found))


def test_a_model_that_never_names_the_drawn_class(chat, tmp_path):
    told = []
    chat.reply = lambda body: listed("a shape on snow", "a heart")
    told_why = "10 does not name star; 10 names heart"
    with refused(FacetError, rf"openai:small wrote no description .* in 10 answers: {told_why}\."):
        wrote(CUES, SERVER, tmp_path)
    assert len(chat.asked) == 2 * ATTEMPTS
    chat.reply = lambda body: content("I would rather not.")
    with refused(FacetError, "none has a numbered or bulleted line"):
        wrote(CUES, SERVER, tmp_path / "other")

    # Of one source alone it is counted, and told.
    def reply(body: dict) -> tuple[int, str]:
        return listed("a star") if "ordinary" in body["messages"][1]["content"] else listed("snow")

    chat.reply = reply
    teller = descriptions.Teller(say=told.append)
    found = rows(wrote(CUES, SERVER, tmp_path / "one", teller=teller))
    assert found.groupby("source")["kept"].sum().to_dict() == {"none": 1, "second-order": 0}
    assert told[0].startswith("second-order, repeat 0: 0 of 5 descriptions can be used (")


def test_a_model_of_this_machine_writes_what_the_seed_says(tmp_path, monkeypatch):
    settings = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 4}
    monkeypatch.setitem(SETTINGS, "transformers", settings)
    monkeypatch.setattr(descriptions, "ATTEMPTS", 1)
    # Random weights write no list.
    monkeypatch.setattr(descriptions, "read_list", lambda answer: [f"a star {answer!r}"])
    writer = Chosen("transformers", str(tiny_model(tmp_path / "lm")))
    first, again, other = (
        wrote(CUES, writer, tmp_path / name, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert rows(first).equals(rows(again))
    assert not rows(first).equals(rows(other))
    assert first.facts["settings"] == settings
    assert len(first.tables["answers"]) == len(CUES)


# -- a person's own ------------------------------------------------------------------------


def test_descriptions_that_are_given():
    found = given(["a star on snow", "a heart"], STAR, ["on snow"])
    as_table(found, DESCRIPTIONS["descriptions"])
    assert found["source"].eq("given").all()
    assert found["chosen"].tolist() == [True, False]
    assert found["cues"].tolist() == [["on snow"], []]
