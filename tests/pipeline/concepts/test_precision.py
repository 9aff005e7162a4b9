"""Precision of named values against plain loops; draws, intervals and differences."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.concepts.precision import (
    AT,
    CELLS,
    NEAREST,
    VALUES,
    Sums,
    Told,
    measure,
    merge,
    named_values,
    precision_table,
    told,
    true_values,
)
from pipeline.microworld.words import microworld_values
from pipeline.microworld.world import ATTRIBUTES

TEXTS = [
    "a red star", "two blue things", "a thing at night", "a photo of something", "snow",
    "a large heart", "three dotted circles", "left", "sea", "a green striped moon", "four",
    "nothing at all", "pink", "a small cross on grass",
]  # fmt: skip


def scenes(rng: np.random.Generator, images: int) -> pa.Table:
    return pa.table({n: pa.array(rng.choice(v, images).tolist()) for n, v in ATTRIBUTES.items()})


def by_loops(scores: np.ndarray, texts: list[str], rows: pa.Table) -> list[dict]:
    """Precision of every image, by (k, attribute), straight from the words."""
    found = []
    for scored, truth in zip(scores, rows.to_pylist(), strict=True):
        order = sorted(range(len(texts)), key=lambda m: (-scored[m], m))
        naming = [texts[m] for m in order if scored[m] > 0 and microworld_values(texts[m])]
        own = {}
        for k in AT:
            values = set().union(*(microworld_values(text) for text in naming[:k]))
            for cell in CELLS:
                of = [(a, v) for a, v in values if cell in ("all", a)]
                if of:
                    own[k, cell] = sum(str(truth[a]) == v for a, v in of) / len(of)
        found.append(own)
    return found


@given(seed=st.integers(0, 2**32 - 1), texts=st.integers(1, len(TEXTS)))
@settings(max_examples=40)
def test_precisions_are_those_of_plain_loops(seed, texts):
    rng = np.random.default_rng(seed)
    chosen = [str(t) for t in rng.permutation(TEXTS)[:texts]]
    scores = (rng.normal(0.2, 1, (6, texts)) * (rng.random((6, texts)) < 0.7)).round(1)
    rows = scenes(rng, 6)
    found = told(scores, named_values(chosen), true_values(rows)).precision
    for image, expected in enumerate(by_loops(scores, chosen, rows)):
        for i, k in enumerate(AT):
            for c, cell in enumerate(CELLS):
                value = expected.get((k, cell), np.nan)
                assert found[image, i, c] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_named_and_true_values():
    named = named_values(["two red stars", "a thing"])
    assert {VALUES[v] for v in np.flatnonzero(named[0])} == {
        ("count", "2"), ("colour", "red"), ("shape", "star"),
    }  # fmt: skip
    assert not named[1].any()
    rows = scenes(np.random.default_rng(0), 5)
    truth = true_values(rows)
    assert (truth.sum(1) == len(ATTRIBUTES)).all()  # one value of each
    for row, has in zip(rows.to_pylist(), truth, strict=True):
        assert {VALUES[v] for v in np.flatnonzero(has)} == {(a, str(v)) for a, v in row.items()}


def of_series(values: np.ndarray) -> list[Told]:
    """The same precision at all numbers of concepts and of all attributes, of 2 named values."""
    right = np.broadcast_to(values[:, None, None], (len(values), len(AT), len(CELLS)))
    known = ~np.isnan(right)
    return [Told(2.0 * known, 2 * np.nan_to_num(right))]


def test_means_and_paired_differences_do_not_depend_on_the_parts():
    rng = np.random.default_rng(2)
    ours, nearest = rng.random(50), rng.random(50)
    ours[:5] = np.nan  # images of which nothing was named
    whole = measure({"neurons": of_series(ours), NEAREST: of_series(nearest)})
    parts = [
        measure({"neurons": of_series(ours[at]), NEAREST: of_series(nearest[at])})
        for at in (slice(0, 5), slice(5, 31), slice(31, None))
    ]
    table = precision_table(whole)
    again = precision_table(merge(parts))
    for name in table.columns:
        if table[name].dtype == float:
            np.testing.assert_allclose(table[name], again[name], rtol=1e-12)
        else:
            assert (table[name] == again[name]).all()
    row = table[(table["series"] == "neurons") & (table["at"] == 5)].iloc[0]
    known, paired = ours[5:], ours[5:] - nearest[5:]
    assert (row["images"], row["named"], row["values"]) == (50, 45, 1.8)
    for name, values in (("precision", known), ("more", paired)):
        half = 1.959964 * values.std(ddof=1) / np.sqrt(45)
        low, high = ("low", "high") if name == "precision" else ("more_low", "more_high")
        assert row[name] == pytest.approx(values.mean(), abs=1e-12)
        assert row[low] == pytest.approx(values.mean() - half, abs=1e-7)
        assert row[high] == pytest.approx(values.mean() + half, abs=1e-7)
    assert table[table["series"] == NEAREST]["more"].isna().all()


def test_draws_count_once_an_image():
    draws = [
        of_series(np.array([0.0, 1.0, np.nan]))[0],
        of_series(np.array([1.0, np.nan, np.nan]))[0],
    ]
    found = measure({"random": draws, NEAREST: of_series(np.zeros(3))})
    assert found.of["random"].n[0, 0] == 2
    assert found.of["random"].total[0, 0] == 1.5


def test_where_nothing_is_named_there_is_no_row():
    found = told(np.ones((3, 1)), named_values(["a thing"]), np.ones((3, len(VALUES)), bool))
    table = precision_table(measure({"neurons": [found], NEAREST: [found]}))
    assert table.empty
    one = Sums.of(np.array([[0.5]]))
    assert np.isnan(one.interval()[1]).all()  # of one image there is no spread
