"""TextSpan over a store's reductions: every head a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.cluster import machines, pace
from pipeline.cluster.tasks import each
from pipeline.extraction.plan import parse_layers
from pipeline.telling import SILENT, Teller
from storage.errors import FacetError
from storage.reductions import Reductions
from storage.store import Store

from .choices import Head, Objective
from .textspan import TextSpanResult, textspan


def heads_of(layers: str, store: Store) -> list[Head]:
    """All heads of the layers that a text such as ``last:4`` names."""
    chosen = parse_layers(layers, store.meta.layers)
    return [(layer, head) for layer in chosen for head in range(store.meta.heads)]


def refuse_one_image(reductions: Reductions) -> None:
    """One image has no variance to describe."""
    if reductions.count() < 2:
        raise FacetError(
            f"only {reductions.count()} image was counted: heads are described by how their "
            "contributions vary, which takes 2 images at least. Choose another `where`."
        )


def describe_heads(
    store: Store,
    reductions: Reductions,
    heads: Sequence[Head],
    texts: np.ndarray,
    rounds: int,
    objective: Objective = "projection",
    teller: Teller = SILENT,
) -> TextSpanResult:
    """TextSpan of the given heads, in their order.

    Parameters
    ----------
    store : Store
        Its maps take heads to the joint space.
    reductions : Reductions
        Of the subset of images that the heads are described by.
    heads : sequence of (layer, head)
    texts : (M, E) float
        Embeddings of the pool.
    rounds, objective
        See ``textspan``.
    teller : Teller
    """
    # Texts to the head's coordinates, then per round their scores and the update of these.
    flops = 2 * len(heads) * len(texts) * store.meta.head_dim * (texts.shape[1] + 4 * rounds)
    machines.settle(
        pace.of_products(flops), f"{len(heads):,} heads, {len(texts):,} texts", teller.say
    )
    covariance = reductions.array("heads_covariance").values
    head_map = store.model()["head_map"].values
    moments = ((covariance[None, *at], head_map[None, *at]) for at in heads)
    found = []
    with teller.bar("heads", len(heads)) as move:
        for one in each(_describe, moments, texts, rounds, objective):
            found.append(one)
            move(len(found))
    return TextSpanResult(
        picks=np.concatenate([f.picks for f in found]),
        scores=np.concatenate([f.scores for f in found]),
        explained_variance=np.concatenate([f.explained_variance for f in found]),
        cumulative=np.concatenate([f.cumulative for f in found]),
        directions=np.concatenate([f.directions for f in found]),
        stopped=tuple(f.stopped[0] for f in found),
    )


def _describe(
    texts: np.ndarray, rounds: int, objective: Objective, moments: tuple[np.ndarray, np.ndarray]
) -> TextSpanResult:
    return textspan(*moments, texts, rounds, objective)


def span_directions(
    store: Store,
    reductions: Reductions,
    heads: Sequence[Head],
    pools: Mapping[str, np.ndarray],
    rounds: int,
    teller: Teller = SILENT,
) -> dict[str, dict[Head, np.ndarray]]:
    """Orthonormal directions of the texts that describe heads, by pool.

    Parameters
    ----------
    pools : mapping of str to (M, E) float
        Embeddings of their texts; one name a pool.
    rounds : int
        Texts of each head.
    """
    refuse_one_image(reductions)
    found = {
        name: describe_heads(store, reductions, heads, texts, rounds, teller=teller).directions
        for name, texts in pools.items()
    }
    return {name: dict(zip(heads, rows, strict=True)) for name, rows in found.items()}


def description_table(
    result: TextSpanResult, heads: Sequence[Head], texts: Sequence[str]
) -> pd.DataFrame:
    """One row a pick: layer, head, rank (from 0), text, score, explained_variance, cumulative."""
    which, rank = np.nonzero(result.picks >= 0)
    layer, head = np.array(heads, int).reshape(-1, 2)[which].T
    return pd.DataFrame(
        {
            "layer": layer,
            "head": head,
            "rank": rank,
            "text": [texts[i] for i in result.picks[which, rank]],
            "score": result.scores[which, rank],
            "explained_variance": result.explained_variance[which, rank],
            "cumulative": result.cumulative[which, rank],
        }
    )
