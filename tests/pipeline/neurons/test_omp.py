"""Orthogonal matching pursuit against scikit-learn's, one target at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import lars_path

import pipeline.neurons.omp
from pipeline.neurons.omp import build_dictionary, omp
from pipeline.neurons.omp_variants import lasso, nonneg_omp
from tests.pipeline.neurons.omp_kit import dense, oracle, problem


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    atoms=st.integers(3, 700),
    embed=st.integers(3, 40),
    share=st.floats(0.05, 1.6),
    near=st.integers(0, 3),
)
def test_same_supports_and_coefficients_as_scikit_learn(seed, atoms, embed, share, near):
    dictionary, targets = problem(seed, atoms, embed, 5, min(near, atoms // 2))
    terms = min(atoms, max(1, int(share * embed)))
    codes = omp(dictionary, targets, terms)
    # With a basis of the space the residual is rounding; scikit-learn may then go on picking by it.
    decided = min(terms, embed, atoms - 1)
    for n, target in enumerate(targets):
        support, code = oracle(dictionary, target, decided)
        found = codes.supports[n][codes.supports[n] >= 0]
        assert sorted(found.tolist()) == support.tolist()
        np.testing.assert_allclose(dense(codes, atoms)[n], code, rtol=1e-5, atol=1e-5)
        left = np.linalg.norm(target.numpy() - code @ dictionary.numpy())
        assert codes.residual_norms[n, -1] == pytest.approx(left, rel=1e-5, abs=1e-6)


def test_prefixes_are_the_pursuits_of_fewer_terms():
    dictionary, targets = problem(1, 400, 30, 7)
    codes = omp(dictionary, targets, 40, prefixes=(1, 6, 40))
    assert (torch.diff(codes.residual_norms, dim=1) <= 1e-12).all()
    for size in (1, 6, 40):
        fewer = omp(dictionary, targets, size)
        torch.testing.assert_close(codes.prefixes[size], fewer.coefficients)
        torch.testing.assert_close(codes.supports[:, :size], fewer.supports)
        torch.testing.assert_close(codes.residual_norms[:, :size], fewer.residual_norms)


def test_above_the_dimension_a_pursuit_stops_at_a_residual_of_zero():
    dictionary, targets = problem(2, 60, 10, 4)
    codes = omp(dictionary, targets, 25)
    assert ((codes.supports >= 0).sum(1) == 10).all()
    assert (codes.supports[:, 10:] == -1).all()
    assert (codes.coefficients[:, 10:] == 0).all()
    assert (codes.residual_norms[:, 10:] < 1e-12).all()


@pytest.mark.parametrize("pursuit", [omp, nonneg_omp, lasso])
def test_a_zero_target_has_no_atoms_and_leaves_others_alone(pursuit):
    dictionary, targets = problem(3, 50, 12, 3)
    targets[1] = 0
    codes = pursuit(dictionary, targets, 6)
    assert (codes.supports[1] == -1).all()
    assert (codes.coefficients[1] == 0).all()
    assert all(v.isfinite().all() for v in (codes.coefficients, codes.residual_norms))
    alone = pursuit(dictionary, targets[2:], 6)
    torch.testing.assert_close(codes.supports[2], alone.supports[0])
    torch.testing.assert_close(codes.coefficients[2], alone.coefficients[0])


def test_one_of_two_equal_atoms_is_picked_once():
    dictionary, targets = problem(4, 30, 8, 6)
    codes = omp(torch.cat([dictionary, dictionary]), targets, 8)
    once = omp(dictionary, targets, 8)
    torch.testing.assert_close(codes.supports % 30, once.supports)
    torch.testing.assert_close(codes.coefficients, once.coefficients)


def test_blocks_of_targets_change_nothing(monkeypatch):
    dictionary, targets = problem(5, 300, 20, 11)
    whole = omp(dictionary, targets, 9, prefixes=(3,))
    monkeypatch.setattr(pipeline.neurons.omp, "_CPU_VALUES", 3 * (512 + 9 * 29))
    parts = omp(dictionary, targets, 9, prefixes=(3,))
    assert torch.equal(whole.supports, parts.supports)
    torch.testing.assert_close(whole.coefficients, parts.coefficients)
    torch.testing.assert_close(whole.prefixes[3], parts.prefixes[3])


def test_float32_agrees_with_float64():
    dictionary, targets = problem(6, 500, 64, 20)
    wide, narrow = omp(dictionary, targets, 16), omp(dictionary.float(), targets.float(), 16)
    same = (wide.supports == narrow.supports).all(1)
    assert same.float().mean() > 0.8  # the others were decided by less than float32 resolves
    torch.testing.assert_close(
        wide.coefficients[same].float(), narrow.coefficients[same], rtol=1e-3, atol=1e-4
    )


def test_published_codes(shared: Path):
    """The published dictionary: features normalised, so that atoms are not of unit length."""
    golden = np.load(shared / "golden" / "omp.npz")
    dictionary, targets = (torch.from_numpy(golden[k]) for k in ("dictionary", "targets"))
    codes = omp(dictionary, targets, int(golden["n_nonzero"]))
    np.testing.assert_array_equal(codes.supports.numpy(), golden["pick_order"])
    np.testing.assert_allclose(dense(codes, len(dictionary)), golden["code"], atol=1e-9)


def test_dictionary_rows_are_centred_and_of_unit_length():
    texts = torch.randn(20, 6, dtype=torch.float64) + 5
    dictionary = build_dictionary(texts)
    torch.testing.assert_close(dictionary.norm(dim=1), torch.ones(20, dtype=torch.float64))
    centred = texts - texts.mean(0)
    torch.testing.assert_close(dictionary * centred.norm(dim=1, keepdim=True), centred)


def oracle_nonneg(dictionary: np.ndarray, target: np.ndarray, terms: int) -> np.ndarray:
    """Lawson & Hanson's algorithm as their book prints it, stopped after `terms` additions."""
    x, held = np.zeros(len(dictionary)), np.zeros(len(dictionary), bool)
    for _ in range(terms):
        gradient = np.where(held, -np.inf, dictionary @ (target - x @ dictionary))
        if gradient.max() <= 1e-13 * np.linalg.norm(target):
            break
        held[gradient.argmax()] = True
        while True:
            best = np.zeros_like(x)
            best[held] = np.linalg.lstsq(dictionary[held].T, target, rcond=None)[0]
            if (best[held] > 0).all():
                break
            falls = held & (best <= 0)
            x = x + (x[falls] / (x[falls] - best[falls])).min() * (best - x)
            held &= x > 1e-14
        x = best
    return x


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), atoms=st.integers(5, 300), embed=st.integers(3, 20))
def test_non_negative_pursuit_equals_lawson_and_hanson(seed, atoms, embed):
    dictionary, targets = problem(seed, atoms, embed, 6)
    terms = min(atoms, embed)
    codes = nonneg_omp(dictionary, targets, terms)
    assert (codes.coefficients >= 0).all()
    assert (torch.diff(codes.residual_norms, dim=1) <= 1e-9).all()
    for n, target in enumerate(targets):
        wanted = oracle_nonneg(dictionary.numpy(), target.numpy(), terms)
        np.testing.assert_allclose(dense(codes, atoms)[n], wanted, atol=1e-7)
        left = np.linalg.norm(target.numpy() - wanted @ dictionary.numpy())
        assert codes.residual_norms[n, -1] == pytest.approx(left, abs=1e-8)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    atoms=st.integers(5, 300),
    embed=st.integers(3, 20),
    share=st.floats(0.05, 1.2),
)
def test_with_a_penalty_it_is_the_lasso_of_no_negative_coefficients(seed, atoms, embed, share):
    """The conditions of Karush, Kuhn and Tucker, which no other code meets."""
    dictionary, targets = problem(seed, atoms, embed, 6)
    penalty = share * float((dictionary @ targets.T).amax(0).median())
    codes = nonneg_omp(dictionary, targets, min(atoms, 60), penalty)
    for code, target in zip(torch.from_numpy(dense(codes, atoms)), targets, strict=True):
        correlation = dictionary @ (target - code @ dictionary)
        assert (code >= 0).all()
        assert (correlation <= penalty + 1e-7).all()
        held = correlation[code > 0]
        torch.testing.assert_close(held, torch.full_like(held, penalty), atol=1e-7, rtol=0)


def test_lasso_follows_the_path_to_the_number_of_terms():
    dictionary, targets = problem(8, 80, 15, 4)
    codes = lasso(dictionary, targets, 5)
    assert ((codes.supports >= 0).sum(1) == 5).all()
    full = torch.from_numpy(dense(codes, 80))
    for code, target, support in zip(full, targets, codes.supports, strict=True):
        # On the path, all atoms held have the same correlation, and no other has more.
        correlation = dictionary @ (target - code @ dictionary)
        held = support[support >= 0]
        top = correlation.abs().max()
        torch.testing.assert_close(correlation[held].abs(), top.expand(len(held)))
        assert (correlation[held].sign() == code[held].sign()).all()


def test_a_lasso_path_that_lets_go_of_atoms_goes_on_to_the_number_of_terms():
    dictionary, targets = problem(11, 300, 30, 12)
    codes = lasso(dictionary, targets, 20)
    atoms = np.asfortranarray(dictionary.numpy().T)
    left = 0
    for target, support, held in zip(targets.numpy(), codes.supports, codes.held, strict=True):
        path = lars_path(atoms, target, method="lasso", max_iter=20)[2]
        left += np.count_nonzero(path[:, -1]) < 20
        assert (support >= 0).sum() == 20
        assert held.tolist() == list(range(1, 21))
    assert left  # twenty steps would not have been enough
    short = lasso(dictionary[:9], dictionary[:2], 9)  # these are atoms themselves
    assert (short.supports >= 0).sum(1).tolist() == [1, 1]
    assert short.held.tolist() == [[1] * 9] * 2
    assert (short.residual_norms[:, -1] < 1e-10).all()


@pytest.mark.parametrize("pursuit", [omp, nonneg_omp, lasso])
def test_bad_input_is_refused(pursuit):
    dictionary, targets = problem(9, 10, 4, 2)
    holed = targets.clone()
    holed[1, 2] = torch.nan
    for args, words in [
        ((dictionary, targets, 11), "11 terms cannot be picked from 10 atoms"),
        ((dictionary, targets, 0), "0 terms asked for"),
        ((dictionary, targets[:, :3], 2), "atoms have 4 numbers and targets 3"),
        ((dictionary, targets[0], 2), r"shapes \(10, 4\) and \(4,\)"),
        ((dictionary, targets.float(), 2), "dtypes differ"),
        ((dictionary.half(), targets.half(), 2), "give float32 or float64"),
        ((dictionary, holed, 2), "targets hold NaN .* 1 of 2 rows, the first being row 1"),
        ((dictionary * torch.inf, targets, 2), "dictionary hold NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=words):
            pursuit(*args)
    with pytest.raises(ValueError, match=r"prefixes \[3\] are not among 1 to 2"):
        omp(dictionary, targets, 2, prefixes=(1, 3))


def test_bad_texts_are_refused():
    texts = torch.randn(6, 4)
    with pytest.raises(ValueError, match="text 0 equals the mean of the 6 texts"):
        build_dictionary(texts[:1].expand(6, 4))
    with pytest.raises(ValueError, match="2 texts or more"):
        build_dictionary(texts[:1])
    texts[3, 1] = torch.nan
    with pytest.raises(ValueError, match="texts hold NaN .* row 3"):
        build_dictionary(texts)
