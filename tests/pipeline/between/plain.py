"""Likeness of two heads by all of their images, as it is defined."""

import numpy as np

from pipeline.between.likeness import RANK


def plain_cka(x_ne, y_nf) -> float:
    """By the images' Gram matrices, as Kornblith et al. 2019 define it."""
    n = len(x_ne)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, m = (centre @ (rows @ rows.T) @ centre for rows in (x_ne, y_nf))
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def plain_cca(x_ne, y_nf) -> np.ndarray:
    """Cosines between the subspaces that both span over the images."""
    bases = []
    for rows in (x_ne, y_nf):
        u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        bases.append(u[:, s**2 > RANK * s[0] ** 2])
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def clear_rank(rows) -> bool:
    """Whether none of the variances is near what counts as none."""
    s = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    return bool((np.abs(np.log10(s**2 / s[0] ** 2 + 1e-30) - np.log10(RANK)) > 1).all())
