"""Principal axes from covariances, lifted to the joint space.

A head's contribution is ``c = u @ head_map`` with ``u`` of head_dim numbers, so its
axes in the joint space come from a head_dim × head_dim eigenproblem: with the QR
decomposition ``head_map.T = Q R``, ``c = Q (R u)`` and the covariance of ``R u`` is
``R S R.T``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Above this width a full eigendecomposition takes longer than the few axes asked for.
_FULL_WIDTH = 2048


@dataclass(frozen=True)
class Pca:
    """Principal axes, by falling variance; float64.

    Attributes
    ----------
    axes : (..., n, E)
        Orthonormal rows; each one's largest entry by magnitude is positive.
    variances : (..., n)
        Variance along each axis; never negative.
    total : (...)
        Variance along all directions.
    """

    axes: np.ndarray
    variances: np.ndarray
    total: np.ndarray


def covariance_pca(covariance: np.ndarray, n: int | None = None) -> Pca:
    """Principal axes of a covariance.

    Parameters
    ----------
    covariance : (..., E, E) float
    n : int, optional
        Axes to keep; all of them unless said. Where ``E`` is above 2,048 and few are
        wanted, they come from a randomised SVD (Halko et al. 2011) with a fixed seed.
    """
    covariance = np.asarray(covariance, np.float64)
    width = covariance.shape[-1]
    if covariance.ndim < 2 or covariance.shape[-2] != width:
        raise ValueError(f"a covariance is square; this one has shape {covariance.shape}")
    n = width if n is None else n
    if not 1 <= n <= width:
        raise ValueError(f"{n} components asked of a covariance of width {width}; ask 1 to {width}")
    if width > _FULL_WIDTH and n <= width // 8:
        flat = covariance.reshape(-1, width, width)
        from sklearn.utils.extmath import randomized_svd  # seconds to import, seldom needed

        found = [randomized_svd(s, n, n_iter=8, random_state=0) for s in flat]
        vectors = np.stack([f[2] for f in found]).reshape(*covariance.shape[:-2], n, width)
        values = np.stack([f[1] for f in found]).reshape(*covariance.shape[:-2], n)
    else:
        rising, columns = np.linalg.eigh(covariance)
        values = rising[..., ::-1][..., :n]
        vectors = columns.swapaxes(-1, -2)[..., ::-1, :][..., :n, :]
    total = np.trace(covariance, axis1=-2, axis2=-1)
    return Pca(_signed(vectors), np.maximum(values, 0.0), np.maximum(total, 0.0))


def factored_pca(covariance: np.ndarray, head_map: np.ndarray, n: int | None = None) -> Pca:
    """Principal axes, in the joint space, of contributions ``u @ head_map``.

    Parameters
    ----------
    covariance : (..., K, K) float
        Covariance of ``u``, for example (layer, head, head_dim, head_dim).
    head_map : (..., K, E) float
        Map from the factored coordinates to the joint space.
    n : int, optional
        Axes to keep, at most min(K, E), which is the default.

    Returns
    -------
    Pca
        ``axes`` (..., n, E). Axes without variance are orthonormal all the same.
    """
    covariance = np.asarray(covariance, np.float64)
    head_map = np.asarray(head_map, np.float64)
    if covariance.shape[-2:] != (head_map.shape[-2],) * 2:
        raise ValueError(
            f"covariance {covariance.shape} does not fit head_map {head_map.shape}: "
            "their factored axes differ"
        )
    q, r = np.linalg.qr(head_map.swapaxes(-1, -2))
    lifted = r @ covariance @ r.swapaxes(-1, -2)
    inner = covariance_pca((lifted + lifted.swapaxes(-1, -2)) / 2, n)
    return Pca(_signed(inner.axes @ q.swapaxes(-1, -2)), inner.variances, inner.total)


def _signed(vectors: np.ndarray) -> np.ndarray:
    """The same rows, each with its largest entry by magnitude positive."""
    largest = np.abs(vectors).argmax(-1)[..., None]
    return vectors * np.where(np.take_along_axis(vectors, largest, -1) < 0, -1.0, 1.0)
