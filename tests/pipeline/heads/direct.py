"""Slow standards: TextSpan as Algorithm 1 prints it, on data matrices; means of all images."""

from __future__ import annotations

import numpy as np

from pipeline.heads.ablation import Means, StoredParts


def direct_textspan(
    data: np.ndarray, texts: np.ndarray, rounds: int, objective: str = "projection"
) -> tuple[list[int], np.ndarray]:
    """Algorithm 1 of Gandelsman et al. 2024, in float64.

    Parameters
    ----------
    data : (K, E)
        A head's contributions to K images, in the joint space.
    texts : (M, E)
    rounds : int
        No more than the rank of the centred data.
    objective : {"projection", "explained-variance"}
        Un-normalised rows of R as printed, or each divided by its length (Gandelsman 2025, 2.7).

    Returns
    -------
    list of int
        The picks.
    (K, E) float64
        The data projected on the span of the picks, about their mean.
    """
    c = np.asarray(data, np.float64)
    mean = c.mean(0)
    c = c - mean
    _, singular, right = np.linalg.svd(c, full_matrices=False)
    span = right[singular > 1e-6 * singular[0]]
    r = np.asarray(texts, np.float64) @ span.T @ span
    lengths = np.linalg.norm(r, axis=1)
    projected = np.tile(mean, (len(c), 1))
    picks: list[int] = []
    for _ in range(rounds):
        variance = (r @ c.T).var(1)
        if objective == "explained-variance":
            squared = (r * r).sum(1)
            alive = np.sqrt(squared) > 1e-6 * lengths
            variance = np.where(alive, variance / np.where(alive, squared, 1.0), 0.0)
        pick = int(variance.argmax())
        picks.append(pick)
        direction = r[pick] / np.linalg.norm(r[pick])
        along = np.outer(c @ direction, direction)
        projected += along
        c = c - along
        r = r - np.outer(r @ direction, direction)
    return picks, projected


def reference_means(parts: StoredParts) -> Means:
    """Mean contributions of images that are all at hand."""

    def mean(values: np.ndarray, scale_b: np.ndarray) -> np.ndarray:
        shape = (-1, *[1] * (values.ndim - 1))
        return (values.astype(np.float64) / scale_b.reshape(shape)).mean(0)

    token = parts.class_token_be
    return Means(
        mean(parts.heads_blhk, parts.scale_b),
        mean(parts.mlps_bsd, parts.scale_b),
        float((1 / parts.scale_b).mean()),
        None if token is None else mean(token, parts.norm_b),
    )
