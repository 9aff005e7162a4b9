"""Scores of labels, against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.scores import agreement, association, consistent, entanglement, overlaps
from tests.pipeline.labels.plain_labels import plain_overlap, plain_scores

HEADS = st.lists(
    st.tuples(st.sampled_from([None, "colour", "shape", "place"]), st.integers(0, 5)), min_size=1
)


@given(HEADS)
def test_scores_are_those_counted_one_by_one(heads):
    labels, fitting = zip(*heads, strict=True)
    plain = plain_scores(labels, fitting)
    assert entanglement(labels) == pytest.approx(plain["entanglement"])
    assert association(fitting) == pytest.approx(plain["association"])
    assert consistent(fitting) == pytest.approx([plain[n] for n in range(6)])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.integers(4, 9))
def test_overlaps_are_traces_of_projectors(seed, heads, rounds, embed):
    rng = np.random.default_rng(seed)
    directions = np.zeros((heads, rounds, embed))
    for b in range(heads):
        rank = rng.integers(0, rounds + 1)  # heads that stopped sooner have rows of zeros
        rows, _ = np.linalg.qr(rng.normal(size=(embed, rounds)))
        directions[b, :rank] = rows.T[:rank]
    found = overlaps(directions)
    for i in range(heads):
        for j in range(heads):
            assert found[i, j] == pytest.approx(plain_overlap(directions[i], directions[j]))


def test_agreement_counts_heads_and_their_variance():
    found = agreement(["a", "b", None], ["a", "a", "b"], np.array([3.0, 1.0, 0.0]))
    assert found == pytest.approx((1 / 3, 3 / 4))
