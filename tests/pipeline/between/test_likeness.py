"""Likeness of heads and maps between embeddings from moments, against the images themselves."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.between import ridge
from pipeline.between.common import CHOOSING, HELD_OUT, PARTS, part_of
from pipeline.between.crossed import Block, Crossed, blocks, merge, state_bytes
from pipeline.between.likeness import likeness, side
from pipeline.between.ridge import STRENGTHS, ridge_map
from pipeline.stats.moments import chunk
from storage.errors import FacetError
from tests.pipeline.between.plain import clear_rank, plain_cca, plain_cka
from tests.storage.stores import metadata

small = st.integers(1, 5)


def crossed(x_npk, y_nqk) -> Crossed:
    flat = [(rows - rows.mean(0)).reshape(len(rows), -1) for rows in (x_npk, y_nqk)]
    return Crossed(chunk(x_npk), chunk(y_nqk), flat[0].T @ flat[1], (), 0, 0)


@given(
    seed=st.integers(0, 999), n=st.integers(2, 12), heads=st.tuples(small, small),
    dims=st.tuples(small, small), joint=st.tuples(small, small), rank=small, cut=st.integers(0, 12),
)  # fmt: skip
def test_pairs_are_those_of_the_contributions(seed, n, heads, dims, joint, rank, cut):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 3))
    rows = [
        np.einsum("nz,zpk->npk", latent, rng.normal(size=(3, p, k)))
        + rng.normal(size=(n, p, k)) * 0.3 + 5
        for p, k in zip(heads, dims, strict=True)
    ]  # fmt: skip
    maps = [
        rng.normal(size=(p, k, rank)) @ rng.normal(size=(p, rank, e))
        for p, k, e in zip(heads, dims, joint, strict=True)
    ]
    cut = min(cut, n)
    parts = [crossed(*(r[at] for r in rows)) for at in (slice(cut), slice(cut, None)) if len(
        rows[0][at])]  # fmt: skip
    state = merge(parts[::-1])
    found = likeness(side(state.source, maps[0]), side(state.target, maps[1]), state.cross)
    for p in range(heads[0]):
        for q in range(heads[1]):
            x, y = rows[0][:, p] @ maps[0][p], rows[1][:, q] @ maps[1][q]
            assert found.cka[p, q] == pytest.approx(plain_cka(x, y), abs=1e-9)
            assume(clear_rank(x) and clear_rank(y))
            correlations = plain_cca(x, y)
            assert found.cca[p, q] == pytest.approx(correlations.mean(), abs=1e-6)
            assert found.cca_largest[p, q] == pytest.approx(correlations[0], abs=1e-6)


def test_a_head_is_most_like_itself_and_one_that_never_varies_is_like_none():
    rng = np.random.default_rng(0)
    rows, maps = rng.normal(size=(50, 3, 4)), rng.normal(size=(3, 4, 6))
    rows[:, 2] = 1.0
    state = crossed(rows, rows)
    own = side(state.source, maps)
    found = likeness(own, own, state.cross)
    for of in (found.cka, found.cca, found.cca_largest):
        np.testing.assert_allclose(np.diag(of)[:2], 1, rtol=1e-9)
        assert (of[0, 1], of[1, 0]) < (1, 1)
        assert np.isnan(of[2]).all()
        assert np.isnan(of[:, 2]).all()


def test_blocks_cross_every_pair_of_layers_once_and_hold_what_they_may(monkeypatch):
    large = metadata(layers=24, heads=16, head_dim=64, embed=768)
    every = range(24)
    found = blocks(large, large, every, every)
    pairs = [(i, j) for block in found for i in block.source for j in block.target]
    assert sorted(pairs) == [(i, j) for i in every for j in every]
    assert [block.embeddings for block in found] == [True] + [False] * (len(found) - 1)
    assert max(state_bytes(large, large, block) for block in found) < 300e6
    last = range(20, 24)
    assert blocks(large, large, last, last) == [Block(tuple(last), tuple(last), True)]


# -- the map -------------------------------------------------------------------------------


def embeddings(n=400, e=5, f=4, noise=0.3):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, e)) * [3, 1, 1, 0.1, 0.01] + 2
    y = x @ rng.normal(size=(e, f)) + noise * rng.normal(size=(n, f))
    return x, y, np.arange(n) % PARTS


def moments(x, y, part):
    both = np.concatenate([x, y], 1)
    return [chunk(both[part == i]) for i in range(PARTS)]


def plain_ridge(x, y, strength):
    """Solved from the images, as least squares with rows added for the penalty."""
    centred, penalty = x - x.mean(0), strength * x.var(0).mean() * len(x)
    added = np.sqrt(penalty) * np.eye(x.shape[1])
    targets = np.concatenate([y - y.mean(0), np.zeros((x.shape[1], y.shape[1]))])
    w = np.linalg.lstsq(np.concatenate([centred, added]), targets, rcond=None)[0]
    return lambda new: (new - x.mean(0)) @ w + y.mean(0), w


def plain_r2(foretold, y):
    return 1 - ((foretold - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()


def test_the_map_is_ridge_regression_and_its_r2_that_of_images_it_never_saw():
    x, y, part = embeddings()
    found = ridge_map(moments(x, y, part), x.shape[1])
    held, choosing = part == HELD_OUT, part == CHOOSING
    fit = ~held & ~choosing
    scores = [
        plain_r2(plain_ridge(x[fit], y[fit], s)[0](x[choosing]), y[choosing]) for s in STRENGTHS
    ]
    assert found.strength == STRENGTHS[int(np.argmax(scores))]
    foretell, w = plain_ridge(x[~held], y[~held], found.strength)
    np.testing.assert_allclose(found.map_ef, w, rtol=1e-7, atol=1e-9)
    assert found.r2 == pytest.approx(plain_r2(foretell(x[held]), y[held]))
    assert (found.images, found.held_out) == ((~held).sum(), held.sum())
    texts = np.random.default_rng(1).normal(size=(3, 5))
    directions = found.texts(texts)
    errors, spread = (y[held] - foretell(x[held])), y[held] - y[held].mean(0)
    expected = 1 - ((errors @ directions.T) ** 2).sum(0) / ((spread @ directions.T) ** 2).sum(0)
    np.testing.assert_allclose(found.r2_along(directions), expected, rtol=1e-9)


def test_held_out_images_have_no_part_in_the_map():
    x, y, part = embeddings()
    found = ridge_map(moments(x, y, part), x.shape[1])
    shuffled, held = y.copy(), part == HELD_OUT
    shuffled[held] = np.random.default_rng(0).permutation(y[held])
    other = ridge_map(moments(x, shuffled, part), x.shape[1])
    np.testing.assert_array_equal(other.map_ef, found.map_ef)
    assert other.strength == found.strength
    assert found.r2 > 0.8 > 0.2 > other.r2


def test_the_strength_is_chosen_by_images_that_did_not_make_the_map():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(60, 30)), rng.normal(size=(60, 4))  # nothing is to be foretold
    found = ridge_map(moments(x, y, np.arange(60) % PARTS), 30)
    assert found.strength == max(STRENGTHS)
    assert found.r2 < 0.1


def test_too_few_images_for_a_map_are_refused():
    x, y, _ = embeddings(8)
    with pytest.raises(FacetError, match="8 images are in both stores: too few"):
        ridge_map(moments(x, y, np.full(8, ridge.CHOOSING)), 5)


def test_parts_follow_keys_alone_and_are_about_equal():
    keys = [f"n0{i}.jpg" for i in range(4000)]
    found = part_of(keys)
    np.testing.assert_array_equal(part_of(keys[::-1])[::-1], found)
    assert np.abs(np.bincount(found, minlength=PARTS) / 4000 - 1 / PARTS).max() < 0.03
