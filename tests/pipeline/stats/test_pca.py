"""Principal components of factored covariances against those of the expanded data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from pipeline.stats.moments import chunk, finalize
from pipeline.stats.pca import covariance_pca, factored_pca


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(2, 8),
    embed=st.integers(2, 14),
    n=st.integers(1, 8),
)
def test_factored_components_are_those_of_the_joint_space(
    seed: int, k: int, embed: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(50, 2, 3, k)) * np.geomspace(1, 0.2, k)
    head_map = rng.normal(size=(2, 3, k, embed))
    n = min(n, k, embed)
    covariance = finalize(chunk(u)).covariance
    assert covariance is not None
    found = factored_pca(covariance, head_map, n)
    assert found.axes.shape == (2, 3, n, embed)
    for at in np.ndindex(2, 3):
        joint = u[:, at[0], at[1]] @ head_map[at]
        oracle = PCA(svd_solver="full").fit(joint)
        population = oracle.explained_variance_[:n] * 49 / 50
        np.testing.assert_allclose(found.variances[at], population, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(found.total[at], joint.var(0).sum(), rtol=1e-10)
        rows = found.axes[at]
        np.testing.assert_allclose(rows @ rows.T, np.eye(n), atol=1e-10)
        gaps = np.diff(found.variances[at], prepend=np.inf, append=0)
        clear = np.minimum(-gaps[:-1], -gaps[1:]) > 1e-3 * found.total[at]
        cosine = np.abs((rows * oracle.components_[:n]).sum(1))
        assert (cosine[clear] > 1 - 1e-8).all()
        assert (np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1) > 0).all()


def test_a_constant_head_still_has_orthonormal_components() -> None:
    head_map = np.random.default_rng(0).normal(size=(4, 9))
    found = factored_pca(np.zeros((4, 4)), head_map)
    assert (found.variances == 0).all()
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(4), atol=1e-12)


def test_a_wide_covariance_gives_the_same_by_randomised_svd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(96, 96)))[0]
    covariance = (axes * 0.7 ** np.arange(96)) @ axes.T
    full = covariance_pca(covariance, 5)
    monkeypatch.setattr("pipeline.stats.pca._FULL_WIDTH", 64)
    quick = covariance_pca(covariance, 5)
    np.testing.assert_allclose(quick.variances, full.variances, rtol=1e-8)
    np.testing.assert_allclose(quick.axes, full.axes, atol=1e-6)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        covariance_pca(np.ones((3, 4)))
    with pytest.raises(ValueError, match="9 components"):
        covariance_pca(np.eye(4), 9)
    with pytest.raises(ValueError, match="factored axes differ"):
        factored_pca(np.eye(3), np.ones((4, 5)))
