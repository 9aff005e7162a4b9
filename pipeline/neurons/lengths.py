"""How long a neuron's effects are over images, as a histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.subsets import spread
from storage import neurons, urls
from storage.store import Store

BINS = 40
# A histogram is known well enough from these: rows of a store hold all neurons of an image, and to
# read one neuron's lengths is to decode the others'.
MOST_IMAGES = 100_000


@dataclass(frozen=True, eq=False)
class Histogram:
    """Lengths of a neuron's mean-removed effects.

    Attributes
    ----------
    edges : (bins + 1,) float
    counts : (bins,) int
    over : str
        Which images, in words.
    """

    edges: NDArray[Any]
    counts: NDArray[np.int64]
    over: str


def histogram(
    store: Store, layer: int, neuron: int, top: NDArray[np.floating], most: int = MOST_IMAGES
) -> Histogram:
    """Lengths on all images of which the store keeps them, or on the top ones.

    Parameters
    ----------
    top : (images,) float
        Lengths on the neuron's top images.
    most : int
        Images at most, about: whole shards, spread over the store.
    """
    kept = neurons.done(store.url, layer, "norms")
    shards = sorted(store.done_shards() & kept)
    some = spread(shards, max(1, most // store.meta.shard_size))
    if not some:
        lengths, over = top, f"its {len(top):,} top images alone"
    else:
        lengths = column(store, layer, neuron, some)
        of = "" if some == shards else f", of {len(some):,} of {len(shards):,} shards"
        over = f"{len(lengths):,} images{of}"
    counts, edges = np.histogram(lengths, BINS)
    return Histogram(edges, counts, over)


def column(store: Store, layer: int, neuron: int, shards: Sequence[int]) -> NDArray[Any]:
    """One neuron's norms on the images of some shards that are ok, a shard at a time."""
    group: Any = urls.open_group(neurons.group_url(store.url, layer), mode="r")
    parts = []
    for shard in shards:
        start, stop = store.meta.rows(shard)
        values = np.asarray(group["norms"][start:stop, neuron])
        parts.append(values[np.isfinite(values)])
    return np.concatenate(parts)
