"""What is common to a part of a map: columns as numbers, shares with intervals, texts."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster import machines
from pipeline.explorer import region as region_module
from pipeline.explorer.cloud import Cloud, cloud
from pipeline.explorer.colouring import STEPS, colouring, legend
from pipeline.explorer.colours import CATEGORIES, OTHER
from pipeline.explorer.columns import Column, column, names, said
from pipeline.explorer.head_map import Box, region
from pipeline.explorer.library import NotHere
from pipeline.explorer.pools import pool_of
from pipeline.explorer.region import by_chance, commons, condition, region_texts
from pipeline.heads.two_sets import along
from pipeline.stats.shares import more_often, wilson
from pipeline.subsets import parse_where
from storage.errors import FacetError
from tests.pipeline.explorer import headed, pictured


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    machines.work("here")
    store = headed.headed(str(tmp_path_factory.mktemp("region") / "store"))
    headed.described(store)
    return headed.library(store).stores["store"]


def everywhere(images: int) -> Cloud:
    return Cloud(np.zeros((2, images), np.float32), (0.5, 0.5), images, images, True)


def test_columns_as_numbers_of_their_values(tmp_path):
    here = pictured.library(pictured.pictured(tmp_path)).stores["store"]
    table = here.store.images()
    assert names(here) == tuple(table.column_names[5:])
    for name in names(here):
        known = column(here, name)
        values = [None if v != v else v for v in table[name].to_pylist()]
        assert [known.values[c] if c >= 0 else None for c in known.codes_n] == values
        assert list(known.values) == sorted({v for v in values if v is not None})
        assert known.is_number == (name in ("count", "weight"))
    assert said(here, 4) == "class-1"


def test_columns_that_say_where_images_are_cannot_be_chosen(opened):
    for name in ("uri", "key", "nonsense"):
        with pytest.raises(NotHere, match="there are label, caption"):
            column(opened, name)


def test_a_column_that_tells_every_image_from_every_other_is_left_out(opened, monkeypatch):
    monkeypatch.setattr("pipeline.explorer.columns.MOST_VALUES", 2)
    opened._memory.__init__()
    assert column(opened, "label").values == ()
    assert said(opened, 4) == "image 4"
    with pytest.raises(FacetError, match="label has too many values"):
        colouring(opened, "label")
    with pytest.raises(FacetError, match="no image has a caption"):
        colouring(opened, "caption")
    found = commons(opened, everywhere(40), np.arange(10))
    assert (found.found, found.tested, found.left_out) == ((), 0, ("label",))
    opened._memory.__init__()


def test_intervals_of_a_difference_are_the_published_ones():
    # Newcombe (1998), Table II, method 10: 56/70 less 48/80, and 9/10 less 3/10.
    for a, n, b, m, low, high in [(56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090)]:
        more, lowest, highest = more_often(np.array([a]), n, np.array([b]), m, 1.959964)
        assert more[0] == pytest.approx(a / n - b / m)
        assert (lowest[0], highest[0]) == pytest.approx((low, high), abs=5e-5)
    # Wilson's interval of 81/263, from the same author's paper on single proportions.
    assert np.ravel(wilson(np.array([81]), 263, 1.959964)) == pytest.approx(
        (0.2553, 0.3662), abs=5e-5
    )


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 30), st.data())
def test_chance_is_that_of_drawing_from_an_urn(having, others, inside, data):
    images = having + others
    inside = min(inside, images)
    count = data.draw(st.integers(max(0, inside - others), min(having, inside)))
    ways = sum(
        comb(having, k) * comb(others, inside - k) for k in range(count, min(having, inside) + 1)
    )
    expected = ways / comb(images, inside)
    assert by_chance(count, inside, having, images) == pytest.approx(expected)


@pytest.fixture
def columned(opened, monkeypatch):
    """Columns that a test plants."""

    def plant(**planted):
        made = {
            name: Column(name, np.array(codes, np.int32), tuple(range(max(codes) + 1)), False)
            for name, codes in planted.items()
        }
        monkeypatch.setattr(region_module, "names", lambda here: tuple(made))
        monkeypatch.setattr(region_module, "column", lambda here, name: made[name])

    return plant


@given(st.integers(0, 2**31))
def test_what_is_common_is_counted_as_a_loop_does(seed):
    rng = np.random.default_rng(seed)
    codes = {n: rng.integers(-1, 3, 60) for n in ("a", "b")}
    points = everywhere(60)
    points.along_pn[:, rng.random(60) < 0.1] = np.nan
    seen = np.flatnonzero(~np.isnan(points.along_pn[0]))
    images = seen[rng.random(len(seen)) < 0.4]
    with pytest.MonkeyPatch.context() as patch:
        made = {n: Column(n, c.astype(np.int32), (0, 1, 2), False) for n, c in codes.items()}
        patch.setattr(region_module, "names", lambda here: tuple(made))
        patch.setattr(region_module, "column", lambda here, name: made[name])
        patch.setattr(region_module, "LEVEL", 1.9)  # of the intervals hardly anything is left
        found = commons(None, points, images)
    others = [i for i in seen if i not in set(images.tolist())]
    told = {(c.column, c.value): c for c in found.found}
    tested = 0
    for name, of in codes.items():
        for value in range(3):
            inside = sum(of[i] == value for i in images)
            outside = sum(of[i] == value for i in others)
            tested += inside + outside >= 5
            if (name, str(value)) in told:
                one = told[(name, str(value))]
                assert one.images == inside
                assert (one.inside, one.outside) == (inside / len(images), outside / len(others))
                assert one.low > 0
    assert found.tested == tested


def test_a_value_that_is_planted_in_a_region_is_found_and_chance_is_not(columned, opened):
    rng = np.random.default_rng(0)
    planted = rng.integers(0, 20, 2000)
    planted[:200] = np.where(rng.random(200) < 0.5, 7, planted[:200])
    columned(planted=planted, chance=rng.integers(0, 200, 2000))
    found = commons(opened, everywhere(2000), np.arange(200)).found
    assert [(c.column, c.value) for c in found] == [("planted", "7")]
    columned(planted=rng.integers(0, 20, 2000), chance=rng.integers(0, 200, 2000))
    for start in range(0, 2000, 200):  # ten regions of what is alike everywhere
        assert not commons(opened, everywhere(2000), np.arange(start, start + 200)).found


def test_texts_are_those_along_the_difference_of_the_means(opened):
    images = np.array([0, 3, 4, 21, 30])
    pool = pool_of(opened, opened.latest("textspan"))
    found = region_texts(opened, 1, 2, images, pool)
    wrote = headed.contributions(opened.store, (1, 2))
    others = [i for i in range(40) if i not in images and i not in headed.BAD]
    difference = wrote[images].mean(0) - wrote[others].mean(0)
    expected = along(difference, opened.store.model()["head_map"].values[1, 2], pool.embeddings, 5)
    assert [(t.text, t.inside) for t in found.texts] == [
        (pool.texts[p.text], p.towards_a) for p in expected
    ]
    assert [t.explained for t in found.texts] == pytest.approx(
        [p.explained for p in expected], abs=1e-2
    )
    assert (found.images, found.others) == (5, 33)
    assert found.distance == pytest.approx(np.linalg.norm(difference), rel=1e-2)


def test_nothing_is_said_of_all_images_and_of_none(opened):
    points = cloud(opened, 0, 0)
    for box, images in [(Box(-99, 99, -99, 99), 38), (Box(98, 99, 98, 99), 0)]:
        found = region(opened, 0, 0, points, box)
        assert (found.images, found.commons.found) == (images, ())
        assert found.texts is None or not found.texts.texts


def test_colours_of_a_column(tmp_path, monkeypatch):
    here = pictured.library(pictured.pictured(tmp_path)).stores["store"]
    made = colouring(here, "count")  # three values: each a colour
    assert not made.amounts
    assert (made.codes_n >= 0).tolist() == [i != 4 for i in range(10)]
    told = dict(map(reversed, legend(here, "count")))
    for code, value in zip(made.codes_n, here.store.images()["count"].to_pylist(), strict=True):
        if code >= 0:
            assert told[str(value)] == "#" + made.colours_c3[code].tobytes().hex()
    weights = colouring(here, "weight")  # nine numbers: amounts, in their order
    assert weights.amounts
    known = [i for i in range(10) if i != 2]
    assert weights.codes_n[2] == -1
    assert (np.diff(weights.codes_n[known]) > 0).all()
    assert weights.codes_n.max() < STEPS == len(weights.colours_c3)
    assert next(said for _, said in legend(here, "weight")) == "0.0"
    # Of many kinds, the commonest are told apart, and the rest is one.
    monkeypatch.setattr("pipeline.explorer.colouring.CATEGORIES", CATEGORIES[:2])
    here._memory.__init__()
    few = colouring(here, "label")
    assert few.codes_n.tolist() == [[0, 1, 2][i % 3] for i in range(10)]
    assert legend(here, "label")[-1] == (OTHER, "all others")


def test_a_value_leads_to_the_images_that_have_it(tmp_path):
    table = pictured.columns(10)
    here = pictured.library(pictured.pictured(tmp_path)).stores["store"]
    for name in ("label", "count", "sunny", "weight", "kind"):
        for value in column(here, name).values:
            picked = table.filter(parse_where(condition(name, value), table.schema))
            assert set(picked[name].to_pylist()) == {value}
    assert condition("label", 'it\'s a "star"') == "label == 'it\\'s a \"star\"'"
    assert condition('in the "sky"', "s1") is None
    assert condition("in", "s1") is None
