"""Rates and their intervals, against plain loops; Table 3.3's figures."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from pipeline.adversarial.rates import Share, less, rates, share_of, summary

OUTCOMES = ("fooled", "not fooled", "not there", "blank", "refused")


def judged(outcomes: dict[tuple[str, int], list[list[str]]]) -> tuple[pd.DataFrame, list[str]]:
    """Outcomes by source, repeat and description; each description says another thing."""
    rows = [
        {
            "source": source, "repeat": repeat, "description": at, "number": number, "file": "",
            "outcome": outcome, "margin": np.nan,
        }
        for (source, repeat), of in outcomes.items()
        for at, pictures in enumerate(of)
        for number, outcome in enumerate(pictures)
    ]  # fmt: skip
    texts = [f"{row['source']} {row['repeat']} {row['description']}" for row in rows]
    return pd.DataFrame(rows), texts


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=5), min_size=1))
def test_counts_are_those_of_a_plain_loop(pictures):
    frame, texts = judged({("random", 0): pictures})
    flat = list(itertools.chain(*pictures))
    fooled, there = flat.count("fooled"), flat.count("fooled") + flat.count("not fooled")
    row = rates(frame).iloc[0]
    assert (row.pictures, row.blank, row.refused) == (
        len(flat), flat.count("blank"), flat.count("refused"),
    )  # fmt: skip
    assert (row.fooled, row.there) == (fooled, there)
    of = summary(frame, texts).iloc[0]
    assert of.fooled == pytest.approx(100 * fooled / len(flat))
    if there:
        assert of.share == row.share == fooled / there
        assert 0 <= of.low <= of.share <= of.high <= 1
    else:
        assert np.isnan([of.share, of.low, of.high, row.share]).all()


def test_deviations_are_the_published_ones():
    """Table 3.3, dog to deer at random: 0.3 (±0.5) is of 0, 0 and 1 in a hundred."""
    hundred = ["fooled", *["not fooled"] * 99]
    none = ["not fooled"] * 100
    frame, texts = judged({("random", 0): [none], ("random", 1): [none], ("random", 2): [hundred]})
    (row,) = summary(frame, texts).itertuples()
    assert (round(row.fooled, 1), round(row.deviation, 1)) == (0.3, 0.5)
    assert row.repeats == 3


def test_a_description_is_one_observation():
    """Ten pictures that all go with their description tell no more than one."""
    rng = np.random.default_rng(0)
    fooled = rng.random(40) < 0.4
    once = share_of(fooled.astype(int), np.ones(40, int))
    tenfold = share_of(10 * fooled, np.full(40, 10))
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    half = 1.96 * np.sqrt(once.value * (1 - once.value) / 40)  # of a normal law
    assert once.high - once.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize(("each", "level"), [(1, 0.9), (10, 0.9)])
def test_intervals_hold_the_truth_as_often_as_they_say(each, level):
    """Descriptions differ in how well they fool; the share of all such descriptions is 0.3."""
    rng, held = np.random.default_rng(1), 0
    for draw in range(150):
        rates_d = rng.beta(0.6, 1.4, 30)
        share = share_of(rng.binomial(each, rates_d), np.full(30, each), 400, draw)
        held += share.low <= 0.3 <= share.high
    assert level <= held / 150


def test_where_all_agree_the_interval_is_no_point():
    none = share_of(np.zeros(30, int), np.full(30, 10))
    assert (none.value, none.low) == (0, 0)
    assert (1 - none.high) ** 30 == pytest.approx(0.025)
    every = share_of(np.full(30, 10), np.full(30, 10))
    assert (every.low, every.high) == (pytest.approx(1 - none.high), 1)
    assert share_of(np.array([3]), np.array([10])) == Share(0.3, 0, 1)


def test_a_text_of_several_repeats_is_one_description():
    frame, _ = judged({("random", r): [["fooled"], ["not fooled"]] for r in range(3)})
    one = summary(frame, [f"text {at}" for at in frame["description"]]).iloc[0]
    other = summary(frame, [str(at) for at in range(6)]).iloc[0]
    assert one.share == other.share
    assert one.high - one.low > other.high - other.low


def test_second_order_cues_less_the_others():
    ours, other = Share(0.5, 0.4, 0.62), Share(0.2, 0.1, 0.35)
    gain = less(ours, other)
    assert gain.value == pytest.approx(0.3)
    assert gain.low == pytest.approx(0.3 - np.sqrt(0.1**2 + 0.15**2))
    assert gain.high == pytest.approx(0.3 + np.sqrt(0.12**2 + 0.1**2))
    some = [["fooled", "not fooled"], ["not fooled", "not fooled"]]
    frame, texts = judged({("none", 0): some, ("second-order", 0): [["fooled"] * 2] * 2})
    found = summary(frame, texts).set_index("source")
    assert found["less"]["none"] == pytest.approx(0.75)
    assert np.isnan(found["less"]["second-order"])
    assert np.isnan(found["deviation"]["none"])  # of one repeat
    alone = summary(*judged({("given", 0): some}))
    assert np.isnan(alone["less"][0])
