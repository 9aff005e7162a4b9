"""Taking rows out of a state again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stats.moments import chunk, combine, remove


@pytest.mark.parametrize("covariance", [True, False])
@given(
    seed=st.integers(0, 2**31),
    kept=st.integers(0, 9),
    gone=st.integers(0, 9),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_remove_undoes_combine(covariance, seed, kept, gone, offset):
    rows = np.random.default_rng(seed).normal(size=(kept + gone, 2, 3)) + offset
    rest, part = (chunk(r, covariance=covariance) for r in (rows[:kept], rows[kept:]))
    found = remove(combine([rest, part]), part)
    assert found.n == rest.n
    np.testing.assert_allclose(found.mean, rest.mean, atol=1e-10)
    np.testing.assert_allclose(found.m2, rest.m2, atol=1e-8)
