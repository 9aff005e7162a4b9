"""How much of each image's embedding every component wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster import machines, pace
from pipeline.cluster.tasks import each
from pipeline.subsets import chosen_rows, spread
from pipeline.telling import several
from storage import ledger, urls
from storage.layout import CONTRIBUTIONS, SOURCES
from storage.store import Store, open_store

from .parts import part_arrays

# Shards that are read, of a store that has more.
SHARDS = 16


@dataclass(frozen=True)
class Shares:
    """Mean over images of ⟨contribution, embedding⟩ / ‖embedding‖²; all of them sum to 1.

    Attributes
    ----------
    heads : (layer, head) float64
    mlps : (block,) float64
        Block 0 is the start, ``l + 1`` the MLP of layer ``l``.
    constants : float
    images : int
        Images that were counted; bad ones are not.
    sources : (layer, source, head) float64, optional
        Shares of heads as far as they gathered them from the class token, from registers and from
        patches, where the store keeps `sources`.
    """

    heads: NDArray[np.float64]
    mlps: NDArray[np.float64]
    constants: float
    images: int
    sources: NDArray[np.float64] | None = None


def shares(store: Store, most: int) -> Shares:
    """Sum the shares shard by shard, each where there is room.

    Parameters
    ----------
    store : Store
    most : int
        Images that are read, about: of more, the first ones of shards spread evenly.
    """
    model = store.model()
    maps = {str(name): array.values for name, array in model.items()}
    heads = np.zeros((store.meta.layers, store.meta.heads))
    mlps = np.zeros(store.meta.layers + 1)
    constants, images, told = 0.0, 0, "sources" in store.meta.components
    sources = np.zeros((store.meta.layers, len(SOURCES), store.meta.heads))
    shards = spread(sorted(store.done_shards()), SHARDS)
    machines.settle(pace.of_shards(store.meta, len(shards)), several(len(shards), "shard"))
    for part in each(shard_shares, shards, store.data, maps, -(-most // max(1, len(shards)))):
        heads += part.heads
        mlps += part.mlps
        constants += part.constants
        images += part.images
        if part.sources is not None:
            sources += part.sources
    count = max(images, 1)
    # What is from neither is from patches.
    whole = np.concatenate([sources, (heads - sources.sum(1))[:, None]], 1) / count
    return Shares(heads / count, mlps / count, constants / count, images, whole if told else None)


def shard_shares(
    url: str, maps: Mapping[str, NDArray[np.float32]], most: int, shard: int
) -> Shares:
    """Sums of the shares over one shard's first images."""
    meta = open_store(url).meta
    ok = np.asarray(ledger.read_part(url, shard)["ok"])[:most]
    if not ok.any():
        return Shares(np.zeros((meta.layers, meta.heads)), np.zeros(meta.layers + 1), 0.0, 0)
    data = urls.open_group(urls.join(url, CONTRIBUTIONS), mode="r")
    told = "sources" in meta.components
    names = [*part_arrays(meta), *(["sources"] if told else [])]
    ((_, rows),) = chosen_rows(data, names, meta.rows(shard)[0], ok)
    part = {name: values.astype(float) for name, values in rows.items()}
    e, std = part["embedding"], part["ln_std"]
    e /= (e**2).sum(1, keepdims=True)
    # ⟨u·head_map, e⟩ = ⟨u, head_map·e⟩: no contribution is written out.
    over_std = e / std[:, None]
    heads, sources = np.zeros((meta.layers, meta.heads)), None
    if meta.heads:
        pulled = np.einsum("be,lhke->blhk", over_std, maps["head_map"], optimize=True)
        heads = np.einsum("blhk,blhk->lh", part["heads"], pulled, optimize=True)
        if told:
            sources = np.einsum("blshk,blhk->lsh", part["sources"], pulled, optimize=True)
    constants = (over_std @ maps["attention_bias"].sum(0) + e @ maps["bias"]).sum()
    if meta.varying_bias:
        constants += (part["bias_weights"] * (over_std @ maps["bias_map"].T)).sum()
    back = over_std @ maps["mlp_map"].T
    mlps = np.einsum("bsd,bd->s", part["mlps"], back, optimize=True)
    return Shares(heads, mlps, float(constants), len(e), sources)
