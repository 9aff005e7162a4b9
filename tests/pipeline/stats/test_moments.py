"""Reductions against NumPy on all rows at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stats.moments import chunk, combine, empty, finalize


def dense(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population covariance of (N, P, K) rows, in extended precision."""
    wide = rows.astype(np.longdouble)
    mean = wide.mean(0)
    centred = wide - mean
    return mean, np.einsum("npk,npj->pkj", centred, centred) / len(rows)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 60),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6)),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    covariance=st.booleans(),
)
def test_any_chunking_order_and_mask_gives_the_moments_of_the_good_rows(
    seed: int,
    n: int,
    shape: tuple[int, int, int],
    dtype: type,
    cuts: list[int],
    covariance: bool,
) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(n, *shape)) * 3 + rng.normal(size=shape) * 50).astype(dtype)
    scale = rng.uniform(0.5, 20, n)
    ok = rng.random(n) < 0.8
    ok[0] = True
    fill = ~ok & (rng.random(n) < 0.5)
    rows[fill], scale[fill] = np.nan, np.nan
    unread = rng.random(n) < 0.1
    unread[0] = False
    rows[unread] = np.nan
    mean, expected = dense(
        (rows / scale[:, None, None, None])[ok & ~unread].reshape(-1, 1, rows[0].size)
    )

    parts = np.split(rng.permutation(n), sorted(min(c, n) for c in cuts))
    states = [chunk(rows[p], ok[p], scale[p], covariance) for p in parts]
    middle = len(states) // 2
    grouped = [combine(half) for half in (states[middle:], states[:middle]) if half]
    found = finalize(combine(grouped))

    assert found.n == (ok & ~unread).sum()
    size = np.abs(mean).max() + 1e-300
    np.testing.assert_allclose(found.mean.ravel(), mean[0], rtol=1e-10, atol=1e-12 * size)
    full = expected[0].reshape(*shape, *shape)
    blocks = np.einsum("abkabj->abkj", full)
    spread = np.abs(blocks).max() + 1e-25 * size**2
    np.testing.assert_allclose(
        found.variance, np.einsum("abkk->abk", blocks), rtol=1e-10, atol=1e-10 * spread
    )
    assert (found.covariance is None) is not covariance
    if covariance:
        np.testing.assert_allclose(found.covariance, blocks, rtol=1e-10, atol=1e-10 * spread)


def test_a_large_mean_does_not_cancel() -> None:
    rows = 1e6 + np.random.default_rng(0).normal(size=(4000, 1, 8)) * 1e-3
    found = finalize(combine(chunk(part) for part in np.array_split(rows, 7)))
    # Means of 1e6 are held to 1e-10 and those of the parts differ by 1e-4: 1e-14 in a variance of
    # 1e-6, where E[x²] − E[x]² would be wrong by 1e-4.
    np.testing.assert_allclose(found.covariance, dense(rows)[1].astype(float), rtol=0, atol=1e-14)


def test_many_components_are_read_block_by_block() -> None:
    rows = np.random.default_rng(1).normal(size=(3000, 40, 8))  # more than one block
    found = finalize(chunk(rows))
    np.testing.assert_allclose(
        found.covariance, dense(rows)[1].astype(float), rtol=1e-10, atol=1e-14
    )


def test_a_constant_has_no_variance_and_one_image_none_either() -> None:
    rows = np.full((5000, 2, 3), 0.1)
    rows[:, 0, 0] = np.arange(5000)
    found = finalize(
        combine(chunk(part, scale=np.full(len(part), 0.7)) for part in np.split(rows, 5))
    )
    assert found.variance[0, 0] > 0
    assert (found.variance.ravel()[1:] == 0).all()
    assert found.covariance is not None
    assert np.count_nonzero(found.covariance) == 1
    assert (finalize(chunk(rows[:1])).variance == 0).all()


def test_states_without_rows_change_nothing() -> None:
    state = chunk(np.random.default_rng(2).normal(size=(9, 4)))
    none = chunk(np.full((3, 4), np.nan, np.float16))
    assert none.n == 0
    for merged in (combine([none, state, empty((4,))]), combine([state, none])):
        assert merged.n == 9
        np.testing.assert_array_equal(merged.m2, state.m2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_damaged_row_is_named(bad: float) -> None:
    rows = np.zeros((6, 2, 3))
    rows[4, 1, 2] = bad
    with pytest.raises(ValueError, match=r"row 4.*mask the row"):
        chunk(rows, ok=np.array([False, True, True, True, True, True]))


def test_bad_input_is_refused() -> None:
    rows = np.ones((3, 2))
    with pytest.raises(ValueError, match="no rows to reduce"):
        finalize(chunk(rows, ok=np.zeros(3, bool)))
    with pytest.raises(ValueError, match=r"scale is 0\.0 in row 1"):
        chunk(rows, scale=np.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="one value a row"):
        chunk(rows, scale=np.ones(2))
    with pytest.raises(ValueError, match="ok has shape"):
        chunk(rows, ok=np.ones(4, bool))
    with pytest.raises(ValueError, match="different components"):
        combine([chunk(rows), chunk(np.ones((3, 4)))])
    with pytest.raises(ValueError, match="no states"):
        combine([])
    with pytest.raises(ValueError, match=r"K = 1 for scalars"):
        chunk(np.ones(3))
