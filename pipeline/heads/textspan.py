"""TextSpan: the texts whose directions explain most of what a head writes.

Algorithm 1 of Gandelsman et al. 2024 works on the matrix C of a head's contributions to K
images: each round picks the text whose projection on C has the largest variance, then projects
that text's direction away from C and from all texts. The variance of C r is rᵀ S r, so a head's
covariance S says everything the algorithm needs, and the number of images no longer matters.

In the head's own principal axes S starts diagonal and texts have as many numbers as the head
has dimensions. With v the picked row, orthogonalised against earlier picks and normalised,
g = S v, a = vᵀ g and y = R v, removing v from the data updates every score by a rank-one rule,

    score ← score − 2 y ⊙ (R g) + a y²,    S ← S − v gᵀ − g vᵀ + a v vᵀ,

and R itself is never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from pipeline.stats.pca import factored_pca
from storage.errors import NotFinite

from .choices import Objective

# Directions with less than this share of a head's largest variance are rounding noise of a
# covariance kept in float64: they are not part of the head's span.
RANK_TOLERANCE = 1e-12
# Scores this close (relative) are one and the same, so that the lowest index wins whatever
# the order in which a processor adds.
_TIE = 1e-10
# Updates leave an error of this share of what a score or a squared length began with, at most:
# texts that it may have put behind others are looked at once more, from their own rows.
_ROUNDING = 64 * np.finfo(np.float64).eps
# A text that has less than this share of its squared length left lies in the span already.
_SPENT = 1e-10


@dataclass(frozen=True)
class TextSpanResult:
    """Descriptions of B heads; after a head's last round its rows are -1, 0 and NaN-free.

    Attributes
    ----------
    picks : (B, rounds) int64
        Index of the text picked in each round; -1 from where the head stopped.
    scores : (B, rounds) float64
        Value of the objective of the pick: for ``projection`` the variance of the head's
        contributions along the un-normalised projected text, for ``explained-variance`` the
        variance along its direction.
    explained_variance : (B, rounds) float64
        Fraction of the head's variance that the pick adds to the span (Gandelsman 2025, Eq. 2.7).
    cumulative : (B, rounds) float64
        Fraction of the head's variance explained by the span so far; stays at its last value
        where the head stopped.
    directions : (B, rounds, E) float64
        Orthonormal basis of the span in the joint space: the first m rows span the first m
        picks. Zero where the head stopped.
    stopped : tuple of str
        Why a head has fewer picks than rounds; empty text where it has them all.
    """

    picks: np.ndarray
    scores: np.ndarray
    explained_variance: np.ndarray
    cumulative: np.ndarray
    directions: np.ndarray
    stopped: tuple[str, ...]


def textspan(
    covariance: np.ndarray,
    head_map: np.ndarray,
    texts: np.ndarray,
    rounds: int,
    objective: Objective = "projection",
) -> TextSpanResult:
    """Algorithm 1 in covariance space, for many heads.

    Parameters
    ----------
    covariance : (B, K, K) float
        Covariance of each head's factored contributions ``u``.
    head_map : (B, K, E) float
        Maps from factored coordinates to the joint space.
    texts : (M, E) float
        Candidate texts' embeddings. Their lengths matter to ``projection``.
    rounds : int
        Texts to pick. A head stops sooner when its span or the texts are used up.
    objective : {"projection", "explained-variance"}
        The score of the paper's algorithm, or the greedy step of what Eq. 2.7 maximises
        (the score divided by the text's remaining squared length).

    Notes
    -----
    The span is that of the centred contributions, exactly: the axes whose variance is above
    ``RANK_TOLERANCE`` of the largest. Equal scores are decided by the lowest index.
    """
    covariance, head_map, texts = (np.asarray(a, np.float64) for a in (covariance, head_map, texts))
    _check(covariance, head_map, texts, rounds, objective)
    heads = len(covariance)
    picks = np.full((heads, rounds), -1, np.int64)
    scores, explained = np.zeros((heads, rounds)), np.zeros((heads, rounds))
    directions = np.zeros((heads, rounds, texts.shape[1]))
    stopped = []
    pca = factored_pca(covariance, head_map)
    for b, (variances, vectors) in enumerate(zip(pca.variances, pca.axes, strict=True)):
        rank = int((variances > RANK_TOLERANCE * variances[0]).sum())
        if rank == 0:
            stopped.append("the head is constant: its contributions have no variance")
            continue
        axes, variances = vectors[:rank], variances[:rank]
        found, values, gains, basis = _span(texts @ axes.T, variances, rounds, objective)
        n = len(found)
        picks[b, :n], scores[b, :n] = found, values
        explained[b, :n] = gains / variances.sum()
        directions[b, :n] = basis @ axes
        stopped.append("" if n == rounds else _reason(n, rank, len(texts)))
    return TextSpanResult(picks, scores, explained, explained.cumsum(1), directions, tuple(stopped))


def _span(
    texts_mk: np.ndarray, variances_k: np.ndarray, rounds: int, objective: Objective
) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """One head in its principal axes: picks, scores, variances gained, orthonormal basis."""
    s = np.diag(variances_k)
    squared = texts_mk * texts_mk
    score = squared @ variances_k
    length = squared.sum(1)
    spent = length * _SPENT
    left = length.copy()
    rounds = min(rounds, len(variances_k), len(texts_mk))
    basis = np.zeros((rounds, len(variances_k)))
    picks: list[int] = []
    scores, gains = np.zeros(rounds), np.zeros(rounds)
    # A text's direction has some variance as long as any of it is left.
    largest = score if objective == "projection" else score / np.where(length > 0, length, 1.0)
    noise = RANK_TOLERANCE * largest.max()
    error = _ROUNDING * variances_k[0] * length
    for i in range(rounds):
        open_ = left > spent
        if not open_.any():
            break
        value, slack = score, error
        if objective == "explained-variance":
            divisor = np.where(open_, left, 1.0)
            value = score / divisor
            slack = (error + np.abs(value) * _ROUNDING * length) / divisor
        value = np.where(open_, value, -np.inf)
        near = np.flatnonzero(value + slack >= (value - slack).max())
        rest = texts_mk[near]
        for _ in range(2):  # the second pass restores what rounding cost the first
            rest = rest - (rest @ basis[:i].T) @ basis[:i]
        exact = ((rest @ s) * rest).sum(1)
        if objective == "explained-variance":
            exact /= (rest * rest).sum(1)
        if exact.max() <= noise:
            break
        at = int(np.flatnonzero(exact >= exact.max() * (1 - _TIE))[0])
        best = int(near[at])
        v = rest[at] / np.linalg.norm(rest[at])
        g = s @ v
        a = float(v @ g)
        picks.append(best)
        scores[i], gains[i], basis[i] = exact[at], a, v
        y, z = (texts_mk @ np.stack([v, g], 1)).T
        score += y * (a * y - 2 * z)
        left -= y * y
        left[best] = 0.0
        s += np.outer(v, a * v - g) - np.outer(g, v)
    n = len(picks)
    return picks, scores[:n], gains[:n], basis[:n]


def _reason(found: int, rank: int, texts: int) -> str:
    limit = (
        f"its contributions span {rank} dimensions"
        if found >= rank
        else f"the {texts} texts span no more of it"
    )
    return f"the head is used up after {found} texts: {limit}"


def _check(
    covariance: np.ndarray, head_map: np.ndarray, texts: np.ndarray, rounds: int, objective: str
) -> None:
    if objective not in get_args(Objective):
        raise ValueError(f"objective {objective!r}: choose one of {', '.join(get_args(Objective))}")
    if rounds < 1:
        raise ValueError(f"{rounds} texts per head asked for; ask for at least 1")
    if covariance.ndim != 3 or covariance.shape[1] != covariance.shape[2]:
        raise ValueError(f"covariance has shape {covariance.shape}; give (heads, K, K)")
    if head_map.ndim != 3 or head_map.shape[:2] != covariance.shape[:2]:
        raise ValueError(
            f"head_map has shape {head_map.shape}; give (heads, K, E) with (heads, K) = "
            f"{covariance.shape[:2]} as in the covariance"
        )
    if texts.ndim != 2 or texts.shape[1] != head_map.shape[2]:
        raise ValueError(
            f"texts have shape {texts.shape}; give (M, {head_map.shape[2]}), the width of the "
            "joint space: were they encoded by the model of this store?"
        )
    if not len(texts):
        raise ValueError("the pool is empty: give at least one text")
    for name, values in (("covariance", covariance), ("head_map", head_map), ("texts", texts)):
        if not np.isfinite(values).all():
            raise NotFinite(f"{name} holds NaN or infinite values; compute it again")
