"""Slow standards: TextSpan as Algorithm 1 prints it, on data matrices; means of all images.

And images of a model of random maps, with all their contributions in the joint space.
"""

from __future__ import annotations

import numpy as np

from pipeline.heads.ablation import Means, StoredParts
from pipeline.models import ModelMaps
from pipeline.published import attention_bias_contributions, head_contributions, mlp_contributions

L, H, K, D, E = 3, 2, 4, 9, 12


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


def make_maps(rng: np.random.Generator) -> ModelMaps:
    return ModelMaps(
        rng.normal(size=(L, H, K, E)),
        rng.normal(size=(D, E)),
        rng.normal(size=(L, E)),
        rng.normal(size=E),
    )


def make_parts(rng: np.random.Generator, maps: ModelMaps, n: int) -> StoredParts:
    heads, mlps = rng.normal(size=(n, L, H, K)) + 1, rng.normal(size=(n, L + 1, D)) - 0.5
    std = rng.uniform(0.5, 2, n)
    total = (
        head_contributions(heads, maps.head_map, std).sum((1, 2))
        + mlp_contributions(mlps, maps.mlp_map, std).sum(1)
        + attention_bias_contributions(maps.attention_bias, std).sum(1)
    )
    return StoredParts(heads, mlps, total + maps.bias, std, rng.normal(size=(n, E)))


def joint(parts: StoredParts, maps: ModelMaps) -> dict[str, np.ndarray]:
    """Every contribution in the joint space, on the published scale."""
    norm = np.linalg.norm(parts.embedding_be, axis=1)
    expanded = {
        "heads": head_contributions(parts.heads_blhk, maps.head_map, parts.ln_std_b),
        "blocks": mlp_contributions(parts.mlps_bsd, maps.mlp_map, parts.ln_std_b),
        "attention_bias": attention_bias_contributions(maps.attention_bias, parts.ln_std_b),
        "class_token": np.asarray(parts.class_token_be),
        "constant": np.tile(maps.bias, (len(norm), 1)),
    }
    return {k: v / norm.reshape(-1, *(1,) * (v.ndim - 1)) for k, v in expanded.items()}
