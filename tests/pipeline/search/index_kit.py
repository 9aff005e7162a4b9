"""Stores of random contributions, to be indexed."""

import numpy as np

from storage import open_store
from storage.store import Store
from tests.storage import stores


def random_shard(store: Store, shard: int, bad: dict[int, str], seed: int = 0) -> None:
    """A finished shard of random values with a mean, NaN where an image is bad."""
    start, stop = store.meta.rows(shard)
    rng, rows = np.random.default_rng([seed, shard]), store.empty_rows(stop - start)
    for name, spec in store.arrays.items():
        if spec.dtype != "str":
            values = rng.normal(size=rows[name].shape)
            values += 3 * np.random.default_rng(7).normal(size=rows[name].shape[1:])
            rows[name][:] = np.abs(values) + 0.5 if name == "ln_std" else values
            rows[name][[i - start for i in bad if start <= i < stop]] = np.nan
    kept = stores.ledger_rows(store, shard, bad)
    store.write_shard(shard, rows, kept, {"bad": {}})


def make(url: str, bad: dict[int, str] | None = None, seed: int = 0, **changes) -> Store:
    store = stores.new_store(url, **{"images": 40, "shard_size": 7, "tokens": 4, **changes})
    for shard in range(store.meta.shards):
        random_shard(store, shard, bad or {}, seed)
    return open_store(url)
