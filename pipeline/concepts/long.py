"""When a neuron's effect on a picture is a long one: the neuron is active there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.subsets import spread
from storage import neurons, urls
from storage.results import Result
from storage.store import Store

from .choices import PERCENT

# What is long is told from about so many images, of at most so many shards.
SAMPLE, SHARDS = 4096, 32


@dataclass(frozen=True, eq=False)
class Long:
    """From which length on the effects of a layer's neurons are long ones.

    Attributes
    ----------
    lengths_n : (N,) float64
        Of mean-removed effects, over ‖embedding‖; infinite for a neuron that has no effect at all.
    words : str
        What they are, for people.
    """

    lengths_n: NDArray[np.float64]
    words: str


def long_effects(store: Store, effects: Result, mlp_layer: int) -> Long:
    """Each neuron's own 98th percentile (Gandelsman 2025, section B.1).

    Over up to `SAMPLE` images whose lengths are kept, spread over the store: neighbours are often
    of one class. Where none are, the shortest effect on its top images stands in for it.

    Parameters
    ----------
    store : Store
    effects : Result
        Second-order effects of the layer.
    mlp_layer : int
    """
    table = effects.table("neurons").to_pandas()
    table = table[table["layer"] == mlp_layer].sort_values("neuron")
    lengths_n, words = _percentile(store, mlp_layer) or (
        table["norm_large"].to_numpy(np.float64),
        "longer than on the last of its top images",
    )
    return Long(np.where(table["norm_max"].to_numpy() > 0, lengths_n, np.inf), words)


def with_lengths(store: Store, mlp_layer: int) -> list[int]:
    """Finished shards whose lengths are kept: what is long is told from these."""
    return sorted(store.done_shards() & neurons.done(store.url, mlp_layer, "norms"))


def _percentile(store: Store, mlp_layer: int) -> tuple[NDArray[np.float64], str] | None:
    kept = with_lengths(store, mlp_layer)
    if not kept:
        return None
    group: Any = urls.open_group(neurons.group_url(store.url, mlp_layer), mode="r")
    shards = spread(kept, SHARDS)
    each, rows = -(-SAMPLE // len(shards)), []
    for shard in shards:
        start, stop = store.meta.rows(shard)
        step = -(-(stop - start) // each)
        rows.append(np.asarray(group["norms"][start:stop:step], np.float32))
    norms_bn = np.concatenate(rows)
    norms_bn = norms_bn[np.isfinite(norms_bn).all(1)]
    if not len(norms_bn):  # bad images alone
        return None
    words = f"longer than on {PERCENT}% of {len(norms_bn):,} images"
    return np.percentile(norms_bn, PERCENT, axis=0).astype(np.float64), words
