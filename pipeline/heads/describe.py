"""TextSpan over a store's reductions: every head a task of the Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import ray

from storage.reductions import Reductions
from storage.store import Store

from .textspan import Objective, TextSpanResult, textspan

Head = tuple[int, int]


def describe_heads(
    store: Store,
    reductions: Reductions,
    heads: Sequence[Head],
    texts: np.ndarray,
    rounds: int,
    objective: Objective = "projection",
    report: Callable[[int], None] = lambda heads: None,
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
    report : callable
        Called with the number of heads done so far.
    """
    covariance = reductions.array("heads_covariance").values
    head_map = store.model()["head_map"].values
    pool = ray.put(texts)
    task = ray.remote(num_cpus=1)(textspan)
    pending = [
        task.remote(covariance[None, *at], head_map[None, *at], pool, rounds, objective)
        for at in ((layer, head) for layer, head in heads)
    ]
    found = []
    for ref in pending:
        found.append(ray.get(ref))
        report(len(found))
    return TextSpanResult(
        picks=np.concatenate([f.picks for f in found]),
        scores=np.concatenate([f.scores for f in found]),
        explained_variance=np.concatenate([f.explained_variance for f in found]),
        cumulative=np.concatenate([f.cumulative for f in found]),
        directions=np.concatenate([f.directions for f in found]),
        stopped=tuple(f.stopped[0] for f in found),
    )


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
