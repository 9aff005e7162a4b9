"""Gains that are found: the optimum, of the training half alone, as a plain loop has it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipeline.heads import ablation
from pipeline.heads.studies import maps_of
from pipeline.repair import search
from pipeline.repair.finding import counted, repair
from pipeline.repair.gains import Components
from pipeline.repair.groups import count_groups, members
from pipeline.repair.scores import Scorer
from pipeline.repair.search import Margins, ShardMargins, best_gains, gather, left_of, sample
from pipeline.stats.reductions import reduce_store
from pipeline.texts.classes import Classes
from storage.errors import FacetError
from tests.pipeline.repair import kit

pytestmark = pytest.mark.usefixtures("here")


def margins(seed: int, images: int = 40, heads: int = 5, others: int = 1) -> Margins:
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.arange(3), rng.integers(0, 3, images - 3)])
    lean = rng.normal(size=(3, heads))[groups]  # some heads hurt some groups
    scores = 0.02 * (lean.T[..., None] + rng.normal(size=(heads, images, others)))
    return Margins(0.03 * rng.normal(size=(images, others)), scores, groups)


def plain(gains: np.ndarray, of: Margins) -> float:
    """The formula, an image at a time."""
    losses: dict[int, list[float]] = {}
    for i, group in enumerate(of.groups_n):
        ahead = []
        for c, base in enumerate(of.base_nc[i]):
            taken = sum((1 - g) * of.scores_snc[s, i, c] for s, g in enumerate(gains))
            ahead.append(100 * (base - taken))
        losses.setdefault(group, []).append(np.log(1 + sum(np.exp(a) for a in ahead)))
    means = [np.mean(found) for found in losses.values()]
    worst = np.log(np.mean([np.exp(20 * loss) for loss in means])) / 20
    return worst + 0.01 / 2 * sum((1 - g) ** 2 for g in gains)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3))
def test_the_objective_and_its_gradient_are_the_formulas(seed, heads, others):
    of = margins(seed, 12, heads, others)
    gains = np.random.default_rng(seed).uniform(0.1, 0.9, heads)
    value, gradient = of.objective(gains)
    np.testing.assert_allclose(value, plain(gains, of), rtol=1e-10)
    steps = 1e-5 * np.eye(heads)
    slopes = [(plain(gains + s, of) - plain(gains - s, of)) / 2e-5 for s in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("seed", "others"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_another_solver_finds_the_same_gains(seed, others):
    of = margins(seed, 40, 6, others)
    found = best_gains(of)
    again = minimize(
        plain, np.full(6, 0.5), (of,), method="SLSQP", bounds=[(0, 1)] * 6,
        options={"ftol": 1e-15, "maxiter": 1000},
    )  # fmt: skip
    np.testing.assert_allclose(found.gains_s, again.x, atol=1e-4)
    assert found.after <= again.fun + 1e-9
    assert found.after < found.before
    assert 0 <= found.gap < 1e-8
    assert ((found.gains_s > 0.01) & (found.gains_s < 1)).any() or found.gains_s.min() == 0


def test_a_solver_that_stops_short_is_not_believed(monkeypatch):
    monkeypatch.setattr(search, "CLOSE", 1e-300)
    with pytest.raises(FacetError, match="gains could not be found"):
        best_gains(margins(0))


def test_what_is_left_of_a_gradient_at_the_edge_of_the_box():
    gains, gradient = np.array([0.0, 0.0, 1.0, 1.0, 0.5]), np.array([3.0, -4.0, -9.0, 0.0, 0.0])
    assert left_of(gains, gradient) == 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return kit.leaning_store(tmp_path_factory.mktemp("leaning"))


def searched(store, asked=kit.ASKED):
    groups = counted(store, asked, search=True)
    return repair(store, asked, groups, kit.READOUT, reduce_store(store), None)


def test_the_head_that_leans_is_taken_away_and_the_worst_group_mended(store):
    found = searched(store)
    assert kit.LEANS in found.heads
    assert kit.GOOD not in found.heads
    worst = found.accuracy[found.accuracy["scope"] == "worst"].set_index("edit")
    assert worst.loc["none", "accuracy"] < 0.3
    assert worst.loc["chosen", "accuracy"] > 0.8
    assert worst.loc["chosen", "change_low"] > 0.4
    known = Components(2, 3)
    assert found.gains_s[known.layers * known.heads :].tolist() == [1] * 5  # heads alone


def test_labels_of_the_held_out_half_make_no_difference(store, tmp_path):
    other = kit.leaning_store(tmp_path, shuffled=True)
    labels = [s.images()["label"].to_pylist() for s in (store, other)]
    assert labels[0] != labels[1]
    a, b = searched(store), searched(other)
    assert a.gains_s.tobytes() == b.gains_s.tobytes()
    assert not a.accuracy.equals(b.accuracy)


def test_margins_are_those_of_the_training_images(store, monkeypatch):
    groups = counted(store, kit.ASKED, search=True)
    taken = []
    monkeypatch.setattr("pipeline.repair.finding.best_gains", lambda of: taken.append(of) or 1 / 0)
    for most in (2**30, 8 * 6 * 4 * 20):  # of the second, 20 a group
        monkeypatch.setattr(search, "HELD_BYTES", most)
        with pytest.raises(ZeroDivisionError):
            repair(store, kit.ASKED, groups, kit.READOUT, reduce_store(store), None)
    whole, some = taken
    sizes = [groups.training[g] for g in sorted(groups.training)]
    assert np.bincount(whole.groups_n).tolist() == sizes
    drawn = np.bincount(some.groups_n)
    assert all(d == s if s <= 20 else d < s for d, s in zip(drawn, sizes, strict=True))
    assert drawn.max() < 40
    rows = {row.tobytes() for row in whole.base_nc}
    assert all(row.tobytes() in rows for row in some.base_nc)
    logits = store.embeddings().values[:, :2].astype(float)
    logits /= np.linalg.norm(store.embeddings().values.astype(float), axis=1)[:, None]
    ahead = np.abs(logits[:, 0] - logits[:, 1])
    assert all(np.nanmin(np.abs(ahead - abs(base))) < 1e-6 for base in whole.base_nc[:, 0])


def test_a_sample_of_every_group(monkeypatch):
    monkeypatch.setattr(search, "HELD_BYTES", 8 * 6 * 3 * 2 * 12)  # of 2 groups, 12 a group
    training = {(0, "a"): 5, (1, "a"): 48}
    assert sample(training, 6, 4) == {(0, "a"): 1.0, (1, "a"): 0.25}
    with pytest.raises(FacetError, match="of 5 classes in 2 groups only 9 images a group fit"):
        sample({(0, "a"): 50, (1, "a"): 48}, 6, 5)


def test_margins_with_gains_are_those_of_edited_logits(store):
    names = {"duck": 0, "wren": 2}
    of_three = replace(kit.ASKED, classes=Classes(("duck", "owl", "wren"), (("a",),) * 3, names))
    components, rng = Components(2, 3), np.random.default_rng(2)
    readout = ablation.Readout(maps_of(store), np.eye(5)[:3])
    scorer = Scorer(components, ablation.reduced_means(reduce_store(store)), readout)
    shares = dict.fromkeys(count_groups(store, [2], of_three, "training"), 1.0)
    found = gather(ShardMargins(store.url, of_three, scorer, shares), [2], lambda done: None)
    gains_s = components.with_gains(rng.uniform(size=(2, 3)))
    away = 1 - gains_s[:6]
    margins_nc = found.base_nc - np.tensordot(away, found.scores_snc, 1)
    mine = members(store, 2, of_three, "training")
    (parts,) = scorer.parts(store, 2, mine.chosen)
    _, logits_nc = scorer.edited(parts, gains_s[None])
    for margins_c, logits_c, own in zip(margins_nc, logits_nc, mine.classes, strict=True):
        expected = [logits_c[c] - logits_c[own] for c in range(3) if c != own]
        np.testing.assert_allclose(margins_c, expected, atol=1e-12)
