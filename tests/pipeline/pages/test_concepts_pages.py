"""Sections of concepts, from results that are made up."""

import io
from collections import defaultdict

import pytest
from rich.console import Console

from pipeline.concepts.answers import concepts_found
from pipeline.pages.concepts import concepts_sections, concepts_tables
from pipeline.pages.reader import Reader
from pipeline.pages.report import store_page
from tests.pipeline.concepts.kept import PICTURES, save_pictures, save_subset
from tests.storage import stores


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return str(tmp_path_factory.mktemp("concepts"))


@pytest.fixture(scope="module")
def pictures(place):
    return concepts_found(save_pictures(place))


@pytest.fixture(scope="module")
def subset(place):
    return concepts_found(save_subset(place))


def test_pictures_are_read_with_maps(pictures):
    assert pictures.names == list(PICTURES)
    assert set(pictures.pixels) == set(PICTURES)
    assert [of.picture for of in pictures.maps] == list(PICTURES)
    (fires,) = pictures.fires
    assert (fires.picture, fires.layer, fires.neuron, fires.map_rc.shape) == (
        PICTURES[0], 2, 17, (4, 4),
    )  # fmt: skip
    assert pictures.over is None


def test_a_picture_has_its_concepts_by_every_method_with_signs_and_who_said_them(pictures):
    first, second = concepts_sections(pictures)
    assert (first.name, second.name) == ("concepts", "concepts-1")
    assert first.title == "What is in image 7, test/7"
    assert first.found == (
        "First of all in image 7, test/7, by neurons that fire: “a red star”, “two moons”; "
        "by heads: “night”."
    )
    (figure,) = first.plots
    assert "12 of 512 neurons fire" in figure
    assert "codes of 32 heads; 42% is left" in figure
    assert figure.count('<li class="minus"') == 1
    assert "snow &amp; ice</span> <b>−0.250" in figure
    assert figure.count("<img ") == 3  # the picture, a map, a neuron
    assert "neurons that fire: map +0.800, left out −0.0500" in figure
    assert first.rows[0] == (
        "a red star", "neurons that fire",
        "MLP layer 2, neuron 17 (+0.500 × +1.700), MLP layer 2, neuron 5 (+0.500 × +0.500), "
        "MLP layer 2, neuron 4 (+0.500 × +0.400), and 1 other",
    )  # fmt: skip
    assert first.rows[2] == ("night", "heads", "layer 3, head 1 (+0.500)")
    assert "a &lt;b&gt;.png" in second.plots[0]


def test_a_subset_has_what_it_has_more_of_and_how_true_that_is(subset):
    over, truth = concepts_sections(subset)
    assert over.title == 'What images have more of where background == "snow"'
    assert over.found == (
        "The subset surely has more of by neurons that fire 1 of 2 texts, first “snow”."
    )
    assert over.rows[0] == (
        "neurons that fire", "snow", "+0.500", "+0.250", "+0.250 (+0.150 to +0.350)", "80.0",
        "12.5",
    )  # fmt: skip
    assert truth.rows == [
        ("neurons that fire", "5", "160", "62.5 (60.0 to 65.0)", "+10.0 (+5.0 to +15.0)"),
        ("chance", "5", "160", "12.5", "–"),
    ]


def test_the_terminal_has_the_same(pictures, subset):
    console = Console(width=120, file=io.StringIO())
    console.print(concepts_tables(pictures))
    console.print(concepts_tables(subset, 1))
    said = console.file.getvalue()
    assert "neurons that fire (12 of 512" in said
    assert "+0.250 (+0.150 to +0.350)" in said
    assert " sand " not in said
    assert "62.5 (60.0 to 65.0)" in said


def test_the_page_of_a_store_has_the_last_that_were_asked_for(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "store")))
    save_pictures(store.url)
    save_subset(store.url)
    page = store_page(Reader(store, lambda job, config: f"facet {job}", defaultdict(str)))
    assert ">What is in image 7, test/7</a></h2>" in page
    assert ">What images have more of where background == &#34;snow&#34;</a></h2>" in page
    assert "facet concepts" in page
