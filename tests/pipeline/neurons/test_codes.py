"""Blocks of neurons: codes as by the algorithms directly, and what they add up to."""

import numpy as np
import pytest
import torch

from pipeline.neurons.codes import code_block, code_table, fit_table, sizes_up_to
from pipeline.neurons.omp import build_dictionary, omp
from pipeline.neurons.omp_variants import lasso, nonneg_omp

SIZES = (2, 4, 7)
TEXTS = [f"text {i}" for i in range(40)]


@pytest.fixture
def dictionary() -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return build_dictionary(torch.randn(40, 16, generator=generator)).numpy()


@pytest.fixture
def targets() -> np.ndarray:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(5, 16, generator=generator)
    return (rows / rows.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("method", ["omp", "lasso", "nonneg-omp"])
def test_codes_reconstructions_and_fits_are_those_of_every_size_alone(dictionary, targets, method):
    run = {"omp": omp, "lasso": lasso, "nonneg-omp": nonneg_omp}[method]
    found = code_block(dictionary, targets, method, SIZES, written=True)
    for place, size in enumerate(SIZES):
        alone = run(torch.from_numpy(dictionary), torch.from_numpy(targets), size)
        dense = np.zeros((5, 40))
        for n, (support, values) in enumerate(zip(alone.supports, alone.coefficients, strict=True)):
            dense[n, support[support >= 0]] = values[support >= 0]
        np.testing.assert_allclose(found.written[place], dense @ dictionary, atol=1e-5)
        left = np.linalg.norm(targets - found.written[place], axis=1)
        np.testing.assert_allclose(found.residuals[:, place], left, atol=1e-5)
        assert found.texts[:, place].tolist() == np.count_nonzero(dense, axis=1).tolist()
    np.testing.assert_array_equal(np.sort(found.supports, 1), np.sort(alone.supports.numpy(), 1))
    assert (np.diff(np.abs(found.coefficients), axis=1) <= 0).all()


def test_without_reconstructions_codes_are_the_same(dictionary, targets):
    with_them = code_block(dictionary, targets, "omp", SIZES, written=True)
    without = code_block(dictionary, targets, "omp", SIZES, written=False)
    assert without.written is None
    np.testing.assert_array_equal(without.supports, with_them.supports)
    np.testing.assert_array_equal(without.residuals, with_them.residuals)


def test_a_planted_direction_gives_its_texts_with_their_signs(dictionary):
    planted = np.stack([2 * dictionary[3] - 0.5 * dictionary[11], -dictionary[7]])
    found = code_block(dictionary, planted.astype(np.float32), "omp", (2, 5), written=False)
    table = code_table(found, [(2, 9), (2, 30)], TEXTS)
    real = table[table["coefficient"].abs() > 1e-3]
    assert real["text"].tolist() == ["text 3", "text 11", "text 7"]
    np.testing.assert_allclose(real["coefficient"], [2.0, -0.5, -1.0], atol=1e-5)
    assert real["neuron"].tolist() == [9, 9, 30]
    assert real["rank"].tolist() == [0, 1, 0]
    fits = fit_table(found, [(2, 9), (2, 30)])
    assert fits["most"].tolist() == [2, 5, 2, 5]
    assert fits["terms"].tolist() == found.texts.ravel().tolist()
    assert (fits["residual"] < 1e-5).all()


@pytest.mark.parametrize(
    ("terms", "sizes"),
    [
        (128, (4, 8, 16, 32, 64, 128)),
        (20, (4, 8, 16, 20)),
        (3, (3,)),
        (200, (4, 8, 16, 32, 64, 128, 200)),
    ],
)
def test_sizes_go_up_to_the_terms(terms, sizes):
    assert sizes_up_to(terms) == sizes
