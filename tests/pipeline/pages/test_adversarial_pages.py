"""Sections of adversarial images, from a chain that is made up."""

import io
import math
from collections import defaultdict
from dataclasses import replace

import pytest
from markupsafe import Markup
from rich.console import Console

from pipeline.adversarial.answers import adversarial
from pipeline.pages.adversarial import adversarial_sections, adversarial_table, in_bold
from pipeline.pages.reader import Reader
from pipeline.pages.report import store_page
from tests.pipeline.adversarial.chain import FILES, save_chain
from tests.storage import stores


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return adversarial(save_chain(str(tmp_path_factory.mktemp("chain"))))


def by_name(found, **asked):
    return {of.name: of for of in adversarial_sections(found, **asked)}


def test_stages_are_read_with_their_files(found):
    assert (found.drawn, found.target) == ("star", "heart")
    assert found.sources == ["second-order", "random", "none"]
    assert found.picture(FILES["random"]).size[0] > 0
    (one,) = found.maps
    assert (one.file, one.map_rc.shape) == (FILES["second-order"], (4, 4))
    assert found.outcomes().loc["random"].to_dict() == {
        "fooled": 0, "not fooled": 1, "not there": 0, "refused": 1,
    }  # fmt: skip


def test_the_table_is_that_of_the_paper_with_intervals(found):
    table = by_name(found)["adversarial"]
    assert table.title == "star, taken for heart"
    assert table.rows == [
        ("second-order effects", "41.5 ± 5.2", "50.0 (40.0 to 60.0)", "–"),
        ("random neurons", "3.0 ± 1.0", "10.0 (0.0 to 20.0)", "+40.0 (+30.0 to +50.0)"),
        ("no cues", "0.0", "–", "–"),
    ]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.3, 0.5, "above random neurons"),
        (-0.5, -0.3, "below random neurons"),
        (-0.1, 0.5, "not told apart from random neurons"),
    ],
)
def test_it_says_whether_second_order_effects_are_ahead(found, low, high, told):
    table = found.table.copy()
    table.loc[table["source"] == "random", ["less_low", "less_high"]] = low, high
    said = by_name(replace(found, table=table))["adversarial"].found
    assert said.endswith(f"By their 95% intervals, second-order effects are {told}.")
    assert "50.0% (40.0 to 60.0) with cues of second-order effects" in said


def test_it_warns_where_nobody_looked_and_where_nothing_could_be_judged(found):
    assert by_name(found)["adversarial"].notes == []
    (note,) = by_name(replace(found, unknown=True))["adversarial"].notes
    assert "Nobody has looked whether the pictures really show star" in note
    black = found.judged.assign(outcome="blank")
    (note,) = by_name(replace(found, judged=black))["adversarial"].notes
    assert "Not one picture could be judged" in note


def test_pictures_stand_with_their_cues_in_bold_and_what_speaks_for_the_target(found):
    (shown,) = by_name(found)["adversarial-pictures"].plots
    assert "second-order effects: 1 fooled" in shown
    assert "a star on <b>snow</b>, at <b>night</b>" in shown
    assert "fooled, +0.020" in shown
    assert shown.count("<img ") == 4  # one each, and a map
    assert shown.count('class="pair"') == 1


def test_cues_and_what_was_dropped(found):
    parts = by_name(found)
    (cards,) = parts["adversarial-cues"].plots
    assert "a heart" not in cards
    assert "grass" not in cards  # of another repeat
    assert "&lt;b&gt; &amp; night" in cards
    assert parts["adversarial-dropped"].rows == [
        ("a heart", "second-order effects", "0.90", "names the target")
    ]
    assert ("second-order effects", "1", "names the target") in parts[
        "adversarial-descriptions"
    ].rows
    assert list(by_name(found, few=True)) == [
        "adversarial", "adversarial-pictures", "adversarial-cues",
    ]  # fmt: skip


def test_a_cue_that_is_not_there_as_it_is_has_its_words_in_bold():
    assert in_bold("Snowy hills & a Star", ["a star on hills"]) == Markup(
        "Snowy <b>hills</b> &amp; a <b>Star</b>"
    )
    assert in_bold("a < b", []) == "a &lt; b"
    # Neither what is drawn nor what says nothing.
    shown = in_bold("an image of stars", ["an image of a star", "things and stars"], "star")
    assert shown == "an image of stars"


def test_the_page_of_a_store_has_the_last_of_each_pair(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "store")))
    save_chain(store.url)
    save_chain(store.url, "moon", "ring")
    page = store_page(Reader(store, lambda job, config: f"facet {job}", defaultdict(str)))
    assert page.count(">star, taken for heart</a></h2>") == 1
    assert page.count(">moon, taken for ring</a></h2>") == 1
    assert "facet adversarial" in page


def test_the_terminal_has_the_same_figures(found):
    console = Console(width=100, file=io.StringIO())
    console.print(adversarial_table(found))
    said = console.file.getvalue()
    assert "41.5 ± 5.2" in said
    assert "snow · <b> & night" in said
    assert not math.isnan(found.of("random")["less"])
