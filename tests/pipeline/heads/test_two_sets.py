"""Two sets of images from moments, against the contributions themselves."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.heads.two_sets import Part, along, parts_row

Shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "n": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "k": st.integers(1, 6),
        "e": st.integers(1, 6),
        "texts": st.integers(1, 12),
        "rank": st.integers(1, 6),
    }
)


def drawn(seed, n, k, e, texts, rank, shift=1.0) -> SimpleNamespace:
    """Two sets of rows, a map that need not be of full rank, texts with something in common."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(k, min(rank, k, e))) @ rng.normal(size=(min(rank, k, e), e))
    rows = [rng.normal(size=(count, k)) + shift * i for i, count in enumerate(n)]
    within = tuple(np.cov(r.T, bias=True).reshape(k, k) for r in rows)
    difference = (rows[0].mean(0) - rows[1].mean(0)) @ maps
    return SimpleNamespace(
        rows=rows, maps=maps, counts=n, texts=rng.normal(size=(texts, e)) + 2,
        part=Part("heads", 0, 0, maps, difference, within),
    )  # fmt: skip


@given(Shapes)
def test_figures_are_those_of_the_contributions(shapes):
    made = drawn(**shapes)
    a, b = (rows @ made.maps for rows in made.rows)  # in the joint space
    difference = a.mean(0) - b.mean(0)
    whole = np.ones(len(difference)) + difference
    found = parts_row(made.part, whole, made.counts)
    assert found["distance"] == pytest.approx(np.sqrt((difference**2).sum()))
    by_chance = sum(s.var(0).sum() / len(s) for s in (a, b))
    assert found["chance"] == pytest.approx(np.sqrt(by_chance), abs=1e-12)
    assert found["share"] == pytest.approx(difference @ whole / (whole @ whole))
    w = difference / np.linalg.norm(difference)
    inside = ((a @ w).var() + (b @ w).var()) / 2
    if inside > 1e-9:
        assert found["fisher"] == pytest.approx(((a @ w).mean() - (b @ w).mean()) ** 2 / inside)
    elif max(shapes["n"]) == 1:
        assert np.isnan(found["fisher"])


@given(Shapes, st.integers(1, 4))
def test_texts_are_those_of_textspan_on_the_differences_own_covariance(shapes, rounds):
    made = drawn(**shapes)
    found = along(made.part.difference_e, made.maps, made.texts, rounds)
    # The algorithm on data: one row, the difference, in all of the joint space.
    on = np.linalg.pinv(made.maps) @ made.maps  # onto what the part can write
    data, texts = made.part.difference_e[None], (made.texts - made.texts.mean(0)) @ on
    whole, explained = (data**2).sum(), 0.0
    for one in found:
        scores = ((texts @ data.T) ** 2).sum(1)
        assert scores[one.text] == pytest.approx(scores.max(), rel=1e-6)
        assert one.towards_a == (texts[one.text] @ data[0] > 0)
        direction = texts[one.text] / np.linalg.norm(texts[one.text])
        gain = ((data @ direction) ** 2).sum() / whole
        explained += gain
        assert (one.explained, one.cumulative) == pytest.approx((gain, explained), abs=1e-9)
        data = data - np.outer(data @ direction, direction)
        texts = texts - np.outer(texts @ direction, direction)
    assert explained <= 1 + 1e-9
    if len(found) < rounds:  # nothing is left, of the difference or of the texts
        assert (texts @ data.T == pytest.approx(0, abs=1e-4)) or explained > 1 - 1e-9


def test_a_text_points_to_the_set_that_it_is_about():
    maps, texts = np.eye(3), np.array([[1.0, 0, 5], [-1, 0, 5], [0, 1, 5], [0, -1, 5]])
    found = along(np.array([1.0, -0.5, 0]), maps, texts, 2)
    assert [(t.text, t.towards_a) for t in found] == [(0, True), (2, False)]
    assert found[-1].cumulative == pytest.approx(1)
