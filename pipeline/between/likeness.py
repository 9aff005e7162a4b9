"""How alike what two heads write is: linear CKA and canonical correlations, from covariances.

With X and Y the contributions of two heads to n images (n, E) and (n, E'), centred, u and v their
factors, X = u M and Y = v M':

    CKA = ‖Xᵀ Y‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖)     (Kornblith et al. 2019, Equation 1 with linear kernels)

and ‖Xᵀ Y‖ = ‖Lᵀ C L'‖ for C the products of u and v and M Mᵀ = L Lᵀ: a product of small matrices,
however many images there are. Canonical correlations are the singular values of Wᵀ C W', W and W'
whitening; axes with hardly any variance are left out, so that any rank will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.stats.moments import Moments

Array = NDArray[np.float64]
# Of a head's largest variance: an axis with less is what rounding to float16 adds, or nothing.
RANK = 1e-6


@dataclass(frozen=True, eq=False)
class Side:
    """The heads of one model, ready to be held against others.

    Attributes
    ----------
    roots_pkr : (P, K, r)
        L of each head.
    lengths_p : (P,)
        ‖Xᵀ X‖.
    whitening_pks : (P, K, s)
        W of each head; columns past its rank are 0.
    ranks_p : (P,) int
    """

    roots_pkr: Array
    lengths_p: Array
    whitening_pks: Array
    ranks_p: NDArray[np.int64]


def side(moments: Moments, maps_pke: Array) -> Side:
    """One side, from the moments of its heads' factors (P, K) and its maps (P, K, E)."""
    u_pkr, strengths_pr, _ = np.linalg.svd(np.asarray(maps_pke, np.float64), full_matrices=False)
    roots_pkr = u_pkr * strengths_pr[:, None]
    products_prr = np.swapaxes(roots_pkr, 1, 2) @ moments.m2 @ roots_pkr
    values_pr, vectors_prr = np.linalg.eigh(products_prr)
    kept_pr = (values_pr > RANK * values_pr[:, -1:]) & (values_pr > 0)
    weights_pr = np.where(kept_pr, 1 / np.sqrt(np.where(kept_pr, values_pr, 1.0)), 0.0)
    whitening_pks = roots_pkr @ (vectors_prr * weights_pr[:, None])
    lengths_p = np.linalg.norm(products_prr, axis=(1, 2))
    return Side(roots_pkr, lengths_p, whitening_pks, kept_pr.sum(1))


@dataclass(frozen=True, eq=False)
class Likeness:
    """Of every pair of heads, (P, Q); NaN where one of them never varies.

    Attributes
    ----------
    cka : (P, Q)
        From 0 to 1.
    cca, cca_largest : (P, Q)
        Mean of the canonical correlations (of as many as the smaller rank), and the largest.
    """

    cka: Array
    cca: Array
    cca_largest: Array


def likeness(source: Side, target: Side, cross: Array) -> Likeness:
    """Every head of one side against every head of the other; ``cross`` is (P * K, Q * K')."""
    heads, others = len(source.ranks_p), len(target.ranks_p)
    cross_pkqk = cross.reshape(heads, -1, others, target.roots_pkr.shape[1])
    cka, cca, largest = (np.full((heads, others), np.nan) for _ in range(3))
    for p, cross_kqk in enumerate(cross_pkqk):
        of_q = cross_kqk.transpose(1, 0, 2)
        lifted = source.roots_pkr[p].T @ of_q @ target.roots_pkr
        lengths_q = source.lengths_p[p] * target.lengths_p
        known = lengths_q > 0
        cka[p, known] = (lifted**2).sum((1, 2))[known] / lengths_q[known]
        white = source.whitening_pks[p].T @ of_q @ target.whitening_pks
        found = np.minimum(np.linalg.svd(white, compute_uv=False), 1.0)
        ranks_q = np.minimum(source.ranks_p[p], target.ranks_p)
        cca[p, known] = found.sum(1)[known] / ranks_q[known]
        largest[p, known] = found[known, 0]
    return Likeness(np.minimum(cka, 1.0), cca, largest)
