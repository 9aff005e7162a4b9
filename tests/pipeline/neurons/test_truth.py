"""Areas under ROC curves against all pairs; which texts are true of which images."""

from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.microworld.words import microworld_attributes, microworld_values
from pipeline.microworld.world import ATTRIBUTES
from pipeline.neurons.truth import DRAWS, Firing, areas, holds, top_positive, truth, truth_facts


def worlds(count: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({n: pa.array(rng.choice(v, count).tolist()) for n, v in ATTRIBUTES.items()})


def by_pairs(positive: np.ndarray, fires: np.ndarray) -> float:
    pairs = list(product(fires[positive], fires[~positive]))
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def test_areas_are_the_shares_of_pairs_in_the_right_order():
    rng = np.random.default_rng(1)
    firing_bn = rng.integers(0, 6, (40, 3)).astype(np.float32)  # many ties
    holds_tb = rng.random((4, 40)) < np.array([[0.1], [0.5], [0.9], [0.3]])
    found = areas(holds_tb, firing_bn)
    expected = [[by_pairs(row, column) for column in firing_bn.T] for row in holds_tb]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(areas(holds_tb, -firing_bn), 1 - found, rtol=1e-12)


def test_a_text_that_is_true_of_all_or_of_none_has_no_area():
    holds_tb = np.array([[True] * 5, [False] * 5, [True, False, False, False, False]])
    found = areas(holds_tb, np.arange(5.0)[:, None])
    assert np.isnan(found[:2]).all()
    assert found[2, 0] == 0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a photo of two red stars", {("count", "2"), ("colour", "red"), ("shape", "star")}),
        ("a thing in front of a brick wall", {("background", "bricks")}),
        ("crosses at night", {("shape", "cross"), ("background", "night")}),
        ("a thing", set()),
    ],
)
def test_texts_name_values(text, values):
    assert microworld_values(text) == values
    assert microworld_attributes(text) == {attribute for attribute, _ in values}


def test_a_text_holds_where_the_image_has_every_value_it_names():
    rows = worlds(200)
    named = [microworld_values("two red things"), microworld_values("a thing at night")]
    expected = [
        [
            c == 2 and k == "red"
            for c, k in zip(rows["count"].to_pylist(), rows["colour"].to_pylist(), strict=True)
        ],
        [b == "night" for b in rows["background"].to_pylist()],
    ]
    np.testing.assert_array_equal(holds(named, rows), expected)


def code(neuron: int, *pairs: tuple[str, float]) -> list[dict]:
    return [
        {"layer": 2, "neuron": neuron, "rank": r, "text": t, "coefficient": c}
        for r, (t, c) in enumerate(pairs)
    ]


def test_the_top_text_has_the_largest_positive_coefficient():
    codes = pd.DataFrame(
        code(0, ("snow", -3.0), ("a red thing", 0.5), ("a star", 0.7)) + code(1, ("sand", -1.0))
    )
    assert top_positive(codes) == {0: "a star"}


def test_neurons_are_held_against_what_their_texts_name():
    rows = worlds(600)
    red = np.array([c == "red" for c in rows["colour"].to_pylist()])
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((600, 4))
    firing_bn = np.stack([red + 0.1 * noise[:, 0], -1.0 * red, noise[:, 2], noise[:, 3]], 1)
    codes = pd.DataFrame(
        code(0, ("a red thing", 1.0), ("a star", -2.0))  # fires on red
        + code(1, ("a red thing", 1.0))  # fires on everything else
        + code(2, ("a thing", 1.0))  # names nothing
        + code(3, ("a blue thing", -1.0))  # nothing positive
    )
    pool = ["a red thing", "a blue thing", "a star", "a thing", "things at night"]
    found = truth(2, codes, pool, Firing(rows, firing_bn.astype(np.float32), "scores"))
    assert found.table["neuron"].tolist() == [0, 1]
    assert found.table["auc"].tolist() == [1.0, 0.0]
    assert found.table["value"].tolist() == ["red", "red"]
    assert found.unnamed == 2
    assert found.draws.shape == (DRAWS,)
    # Neurons 0 and 1 rank images in opposite orders up to noise: random texts are at chance.
    assert 0.35 < found.draws.mean() < 0.65
    again = truth(2, codes, pool, Firing(rows, firing_bn.astype(np.float32), "scores"))
    np.testing.assert_array_equal(again.draws, found.draws)
    facts = truth_facts(found)
    assert "mean 0.500" in facts["  AUC"]
    assert "1 of 2 (50%)" in facts["  AUC"]


def test_codes_that_name_nothing_are_counted():
    rows = worlds(50)
    firing = Firing(rows, np.zeros((50, 1), np.float32), "norms")
    found = truth(0, pd.DataFrame(code(0, ("a thing", 1.0))), ["a thing", "a dog"], firing)
    assert found.table.empty
    assert "no text of 1 neurons" in truth_facts(found)["known truth"]
