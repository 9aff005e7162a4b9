"""How much of each image's embedding every component wrote."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.subsets import chosen_rows
from storage import ledger, urls
from storage.layout import CONTRIBUTIONS
from storage.store import Store

NAMES = ("heads", "mlps", "embedding", "ln_std")


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
    """

    heads: NDArray[np.float64]
    mlps: NDArray[np.float64]
    constants: float
    images: int


def shares(store: Store) -> Shares:
    """Sum the shares shard by shard; only one shard is held at a time."""
    meta, model = store.meta, store.model()
    heads = np.zeros((meta.layers, meta.heads))
    mlps = np.zeros(meta.layers + 1)
    constants, images = 0.0, 0
    head_map, mlp_map = model["head_map"].values, model["mlp_map"].values
    attention_bias, bias = model["attention_bias"].values.sum(0), model["bias"].values
    data = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r")
    for shard in sorted(store.done_shards()):
        ok = np.asarray(ledger.read_part(store.url, shard)["ok"])
        if not ok.any():
            continue
        ((_, rows),) = chosen_rows(data, NAMES, meta.rows(shard)[0], ok)
        part = {name: values.astype(float) for name, values in rows.items()}
        e, std = part["embedding"], part["ln_std"]
        e /= (e**2).sum(1, keepdims=True)
        # ⟨u·head_map, e⟩ = ⟨u, head_map·e⟩: no contribution is written out.
        pulled = np.einsum("be,lhke->blhk", e / std[:, None], head_map, optimize=True)
        heads += np.einsum("blhk,blhk->lh", part["heads"], pulled, optimize=True)
        back = (e / std[:, None]) @ mlp_map.T
        mlps += np.einsum("bsd,bd->s", part["mlps"], back, optimize=True)
        constants += float((e @ attention_bias / std + e @ bias).sum())
        images += len(e)
    count = max(images, 1)
    return Shares(heads / count, mlps / count, constants / count, images)
