"""Sparse codes: problems, and scikit-learn's answers to them, one target at a time."""

import warnings

import numpy as np
import torch
from sklearn.linear_model import orthogonal_mp

from pipeline.neurons.omp import build_dictionary


def problem(seed: int, atoms: int, embed: int, targets: int, near: int = 0):
    """A dictionary of unit rows, `near` of which have a twin at a distance of 1e-3; targets."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(atoms, embed)) + rng.normal(size=embed)
    for twin, original in rng.permutation(atoms)[: 2 * near].reshape(2, -1).T:
        rows[twin] = rows[original] + 1e-3 * rng.normal(size=embed)
    dictionary = build_dictionary(torch.from_numpy(rows))
    return dictionary, torch.from_numpy(rng.normal(size=(targets, embed)))


def oracle(dictionary: torch.Tensor, target: torch.Tensor, terms: int):
    """scikit-learn's support (sorted) and dense code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pursuits that stop early
        code = orthogonal_mp(dictionary.numpy().T, target.numpy(), n_nonzero_coefs=terms)
    return np.flatnonzero(code), code


def dense(codes, atoms: int) -> np.ndarray:
    full = torch.zeros(len(codes.supports), atoms + 1, dtype=codes.coefficients.dtype)
    full.scatter_(1, codes.supports % (atoms + 1), codes.coefficients)  # -1 lands in the last
    return full[:, :-1].numpy()
