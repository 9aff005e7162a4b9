"""Over-represented concepts against plain loops, their intervals against draws of the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.concepts.over import FIRST, by_chance, count, merge, over_table, refuse_few
from storage.errors import FacetError


def scores_of(rng: np.random.Generator, images: int, texts: int, fires: float) -> np.ndarray:
    """Sparse scores of either sign, as those of neurons are."""
    scores = rng.normal(0.3, 1, (images, texts)) * (rng.random((images, texts)) < fires)
    return scores.round(rng.integers(1, 8))  # some are tied


def by_loops(scores: np.ndarray, inside: np.ndarray) -> dict[int, dict[str, float]]:
    """Every figure of every text, image by image, the intervals as they are written down."""
    firsts = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda m: (-row[m], m))
        firsts.append({m for m in order[:FIRST] if row[m] > 0})
    found = {}
    for m in range(scores.shape[1]):
        a, b = scores[inside, m], scores[~inside, m]
        own = {"inside": a.mean(), "outside": b.mean(), "difference": a.mean() - b.mean()}
        whole = scores[:, m].var(ddof=1)
        u, v = (max(side.var(ddof=1), whole) / len(side) for side in (a, b))
        if u + v > 0:
            degrees = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
            for (low, high), level in (
                (("low", "high"), 0.05),
                (("low_all", "high_all"), 0.05 / scores.any(0).sum()),
            ):
                half = stats.t.ppf(1 - level / 2, max(degrees, 1)) * np.sqrt(u + v)
                own |= {low: own["difference"] - half, high: own["difference"] + half}
        has = np.array([m in first for first in firsts])
        own |= {"share_inside": has[inside].mean(), "share_outside": has[~inside].mean()}
        found[m] = own
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(5, 40),
    texts=st.integers(1, 30),
    fires=st.sampled_from([0.02, 0.3, 1.0]),
)
@settings(max_examples=40)
def test_figures_are_those_of_plain_loops_whatever_the_parts(seed, images, texts, fires):
    rng = np.random.default_rng(seed)
    scores = scores_of(rng, images, texts, fires)
    inside = rng.permutation(np.arange(images) < rng.integers(2, images - 2))
    cut = rng.integers(0, images + 1)
    found = merge([count(scores[:cut], inside[:cut]), count(scores[cut:], inside[cut:])])
    table = over_table(found, [f"text {m}" for m in range(texts)], "neurons")
    assert (np.diff(table["low_all"].clip(0)) <= 0).all()
    said = [f"text {m}" for m in np.flatnonzero(scores.any(0))]
    assert sorted(table["text"]) == sorted(said)
    assert list(table["rank"]) == list(range(len(said)))
    for row in table.to_dict("records"):
        expected = by_loops(scores, inside)[int(row["text"].removeprefix("text "))]
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert row["low_all"] <= row["low"] <= row["difference"] <= row["high"] <= row["high_all"]
        assert row["share_low"] <= row["share_inside"] - row["share_outside"] <= row["share_high"]


def test_a_text_against_the_subset_stands_last_and_one_for_it_first():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 5))
    inside = np.arange(400) < 100
    scores[inside, 3] += 1
    scores[inside, 1] -= 2
    table = over_table(count(scores, inside), list("abcde"), "neurons")
    assert table["text"].iloc[0] == "d"
    assert table["low_all"].iloc[0] > 0
    assert table["text"].iloc[-1] == "b"
    assert table["high_all"].iloc[-1] < 0


@pytest.mark.parametrize("said", ["of few images", "against few images", "of all images"])
def test_of_subsets_drawn_at_random_few_have_any_text_that_is_called_over_represented(said):
    rng = np.random.default_rng(1)
    scores = rng.exponential(1, (600, 60)) * (rng.random((600, 60)) < 0.05)
    if said == "against few images":
        scores = -scores
    elif said == "of all images":
        scores = rng.normal(size=scores.shape)
    texts = [str(m) for m in range(60)]
    draws, any_, each = 100, 0, 0
    for _ in range(draws):
        inside = rng.permutation(600) < 80
        table = over_table(count(scores, inside), texts, "neurons")
        any_ += (table["low_all"] > 0).any()
        each += (table["low"] > 0).sum()
    assert any_ / draws <= 0.05
    # One by one, about so many would be; of sparse scores, which are skewed, fewer.
    assert each / draws < 1.3 * by_chance(60)
    assert said != "of all images" or each / draws > 0.6 * by_chance(60)


def test_on_two_sides_of_like_spread_the_interval_is_that_of_welch():
    rng = np.random.default_rng(3)
    scores, inside = rng.normal(size=(500, 1)), np.arange(500) < 200
    row = over_table(count(scores, inside), ["a"], "neurons").iloc[0]
    test = stats.ttest_ind(scores[inside, 0], scores[~inside, 0], equal_var=False)
    assert (row["low"], row["high"]) == pytest.approx(test.confidence_interval(0.95), rel=0.05)


def test_shares_count_texts_above_0_alone():
    scores = np.array([[0.0, -1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 0.5, -3.0], [0.0, 0.0, 0.1]])
    found = count(scores, np.array([True, True, False, False]))
    assert list(found.inside.first_m) == [0, 0, 1]
    assert list(found.outside.first_m) == [1, 1, 1]


@pytest.mark.parametrize(
    ("inside", "outside", "said"),
    [(1, 9, "1 image in the subset.*a wider one"), (9, 0, "0 images outside of.*a narrower one")],
)
def test_too_few_images_on_a_side_are_refused(inside, outside, said):
    with pytest.raises(FacetError, match=said):
        refuse_few(inside, outside)
    refuse_few(2, 2)
