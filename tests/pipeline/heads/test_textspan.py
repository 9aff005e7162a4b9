"""TextSpan in covariance space against Algorithm 1 on data matrices."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.heads.choices import Objective
from pipeline.heads.textspan import TextSpanResult, textspan
from pipeline.stats.moments import chunk, finalize
from tests.pipeline.heads.direct import direct_textspan


def head(seed: int, images: int, k: int, embed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factored contributions (images, k) with an uneven spectrum and a large mean; their map."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(k, k)))[0] * np.geomspace(1, 0.05, k)
    u = rng.normal(size=(images, k)) @ mixing.T + rng.normal(size=k) * 5
    return u, rng.normal(size=(k, embed)) / embed**0.5


def unit_texts(seed: int, m: int, embed: int) -> np.ndarray:
    rows = np.random.default_rng(seed + 1).normal(size=(m, embed))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def span_of(u: np.ndarray, head_map: np.ndarray, *args: object, **more: object) -> TextSpanResult:
    covariance = finalize(chunk(u)).covariance
    assert covariance is not None
    return textspan(covariance[None], head_map[None], *args, **more)  # type: ignore[arg-type]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(5, 80),
    k=st.integers(1, 24),
    extra=st.integers(0, 30),
    m=st.integers(30, 120),
    objective=st.sampled_from(["projection", "explained-variance"]),
)
def test_same_picks_and_same_span_as_algorithm_1(
    seed: int, images: int, k: int, extra: int, m: int, objective: Objective
) -> None:
    u, head_map = head(seed, images, k, k + extra)
    texts = unit_texts(seed, m, k + extra)
    rank = min(k, images - 1)
    found = span_of(u, head_map, texts, rank, objective)
    data = u @ head_map
    picks, projected = direct_textspan(data, texts, rank, objective)
    if objective == "explained-variance":
        # The last direction is the same whatever text is picked: then the lowest index is.
        picks = [*picks[: rank - 1], min(set(range(m)) - set(picks[: rank - 1]))]
    assert found.picks[0].tolist() == picks
    assert found.stopped == ("",)
    basis = found.directions[0]
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-9)
    mean = data.mean(0)
    np.testing.assert_allclose(mean + (data - mean) @ basis.T @ basis, projected, atol=1e-8)
    explained = ((data - mean) @ basis.T).var(0) / data.var(0).sum()
    np.testing.assert_allclose(found.explained_variance[0], explained, atol=1e-10)
    np.testing.assert_allclose(found.cumulative[0, -1], 1, atol=1e-9)


@pytest.mark.parametrize("objective", ["projection", "explained-variance"])
def test_sixty_rounds_of_several_heads_at_once(objective: Objective) -> None:
    heads = [head(seed, 400, 64, 96) for seed in range(3)]
    texts = unit_texts(7, 500, 96)
    covariances = np.stack([np.cov(u.T, bias=True) for u, _ in heads])
    found = textspan(covariances, np.stack([m for _, m in heads]), texts, 60, objective)
    for picks, (u, head_map) in zip(found.picks, heads, strict=True):
        assert picks.tolist() == direct_textspan(u @ head_map, texts, 60, objective)[0]
    assert (np.diff(found.cumulative, axis=1) > 0).all()


@pytest.mark.parametrize("case", ["a", "b"])
def test_published_picks_and_reconstructions(shared: Path, case: str) -> None:
    golden = np.load(shared / "golden" / "textspan.npz")
    data = golden[f"{case}_data"]
    rounds = len(golden[f"{case}_picks"])
    found = span_of(data, np.eye(data.shape[1]), golden["texts"], rounds)
    np.testing.assert_array_equal(found.picks[0], golden[f"{case}_picks"])
    mean, basis = data.mean(0), found.directions[0]
    rebuilt = mean + (data - mean) @ basis.T @ basis
    np.testing.assert_allclose(rebuilt, golden[f"{case}_recon"], atol=1e-12)


def test_explained_variance_objective_explains_no_less_at_first() -> None:
    u, head_map = head(3, 300, 16, 32)
    texts = unit_texts(3, 200, 32) * np.random.default_rng(0).uniform(0.1, 3, (200, 1))
    greedy = span_of(u, head_map, texts, 1, "explained-variance")
    paper = span_of(u, head_map, texts, 1)
    assert greedy.cumulative[0, 0] >= paper.cumulative[0, 0]


@pytest.mark.parametrize("objective", ["projection", "explained-variance"])
def test_a_head_stops_at_its_rank(objective: Objective) -> None:
    u, head_map = head(4, 6, 10, 20)  # six images: five dimensions
    found = span_of(u, head_map, unit_texts(4, 50, 20), 9, objective)
    assert (found.picks[0] >= 0).sum() == 5
    assert (found.picks[0, 5:] == -1).all()
    assert (found.directions[0, 5:] == 0).all()
    assert found.cumulative[0, 4] == pytest.approx(1)
    assert (found.cumulative[0, 5:] == found.cumulative[0, 4]).all()
    assert found.stopped == (
        "the head is used up after 5 texts: its contributions span 5 dimensions",
    )


@pytest.mark.parametrize("objective", ["projection", "explained-variance"])
def test_a_head_stops_when_the_texts_are_used_up(objective: Objective) -> None:
    u, head_map = head(5, 40, 8, 12)
    three = unit_texts(5, 3, 12)
    texts = np.concatenate([three, three * 2, np.ones((3, 3)) @ three, np.zeros((2, 12))])
    found = span_of(u, head_map, texts, 6, objective)
    assert (found.picks[0] >= 0).sum() <= 3
    assert "span no more of it" in found.stopped[0]
    assert np.isfinite(found.scores).all()


def test_a_constant_head_and_one_image_have_no_picks() -> None:
    u, head_map = head(6, 30, 5, 9)
    constant = np.repeat(u[:1], 3000, axis=0) / 3
    covariances = [finalize(chunk(rows)).covariance for rows in (constant, u, u[:1])]
    found = textspan(np.stack(covariances), np.stack([head_map] * 3), unit_texts(6, 20, 9), 4)
    for b in (0, 2):
        assert (found.picks[b] == -1).all()
        assert "constant" in found.stopped[b]
    assert (found.picks[1] >= 0).all()
    assert all(np.isfinite(v).all() for k, v in vars(found).items() if k != "stopped")


@pytest.mark.parametrize("objective", ["projection", "explained-variance"])
def test_ties_go_to_the_lowest_index_and_are_never_picked_twice(objective: Objective) -> None:
    u, head_map = head(8, 90, 12, 20)
    texts = unit_texts(8, 37, 20)
    order = np.random.default_rng(8).permutation(np.tile(np.arange(37), 3))
    found = span_of(u, head_map, texts[order], 10, objective).picks[0]
    first = [int(np.flatnonzero(order == order[pick])[0]) for pick in found]
    assert found.tolist() == first
    assert len(set(order[found])) == 10


@pytest.mark.parametrize("smallest", [1, 1e-5, 1e-11])
def test_rounding_decides_no_tie(smallest: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
        covariance = (turn * np.geomspace(1, smallest, 12)) @ turn.T
        texts = rng.normal(size=(300, 20)) + 3 * rng.normal(size=20)
        head_map = rng.normal(size=(1, 12, 20))
        found = textspan(covariance[None], head_map, texts, 12, "explained-variance").picks[0]
        assert found[-1] == min(set(range(300)) - set(found[:-1].tolist()))
    # Copies of one direction tie in every round, whatever their lengths.
    several = np.concatenate([texts, -texts * rng.uniform(0.1, 9, (300, 1))])
    order = rng.permutation(600)
    again = textspan(covariance[None], head_map, several[order], 12, "explained-variance").picks[0]
    first = [np.flatnonzero(order % 300 == pick)[0] for pick in order[again] % 300]
    assert again.tolist() == first


def test_bad_input_is_refused() -> None:
    cov, head_map, texts = np.eye(3)[None], np.ones((1, 3, 5)), np.ones((4, 5))
    for args, words in [
        ((cov, head_map, texts, 0), "at least 1"),
        ((cov[0], head_map, texts, 2), r"heads, K, K"),
        ((cov, head_map[:, :2], texts, 2), "head_map has shape"),
        ((cov, head_map, texts[:, :4], 2), "width of the joint space"),
        ((cov, head_map, texts[:0], 2), "pool is empty"),
        ((cov * np.nan, head_map, texts, 2), "covariance holds NaN"),
        ((cov, head_map, texts, 2, "variance"), "explained-variance"),
    ]:
        with pytest.raises(ValueError, match=words):
            textspan(*args)  # type: ignore[arg-type]
