"""A small store with second-order effects of one MLP layer, for the jobs that start from them."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from jobs import extract, second_order
from pipeline.identity import over
from pipeline.neurons.omp import build_dictionary
from pipeline.neurons.tables import NEURONS
from pipeline.texts import load_pool
from pipeline.texts.encoding import TextEncoder
from storage.results import Result, as_table, save_result
from storage.store import Store
from tests import tiny

TINY = tiny.tiny({"layers": 4, "mlp_ratio": 1.0}, {"width": 32}, quick_gelu=True)
# Of this layer the store keeps neurons; of PLANTED only directions are there, made of texts.
KEPT, PLANTED = 2, 1
TOP_K = 10


def neuron_store(folder: Path) -> Store:
    """60 pictures of the embedded world, a random model, coefficients of layer ``KEPT``."""
    tiny.write_config(folder, TINY)
    store = extract.main(
        extract.ExtractConfig(
            images="microworld:n=60,seed=3,split=test",
            model=str(folder / "tiny.json"),
            pretrained="none",
            store=str(folder / "store"),
            store_dtype="float32",
            shard_size=32,
            seed=5,
            workers="here",
        )
    )
    second_order.main(
        second_order.SecondOrderConfig(
            store=store.url, mlp_layers=str(KEPT), top_k=TOP_K, workers="here"
        )
    )
    return store


def plant(store: Store, codes: dict[int, dict[str, float]]) -> Result:
    """Directions of layer ``PLANTED`` that are sums of texts of the pool; the others are zero."""
    pool = load_pool("microworld")
    encoded = TextEncoder(store).encode(pool.source, pool.texts)
    dictionary = build_dictionary(torch.from_numpy(encoded.embeddings)).numpy()
    rows = np.zeros((1, store.meta.mlp_width, store.meta.embed), np.float32)
    for neuron, code in codes.items():
        for text, coefficient in code.items():
            rows[0, neuron] += coefficient * dictionary[pool.texts.index(text)]
    directions = xr.Dataset(
        {"direction": (("layer", "neuron", "embed"), rows)}, {"layer": [PLANTED]}
    )
    schema = NEURONS["neurons"]
    table = {name: np.zeros(store.meta.mlp_width) for name in schema.names}
    table |= {"layer": np.full(store.meta.mlp_width, PLANTED), "neuron": np.arange(len(rows[0]))}
    return save_result(
        store.url,
        "second_order",
        {"mlp_layers": str(PLANTED)},
        {"mlp_layers": [PLANTED], "images": 60, "over": over(store)},
        tables={"neurons": as_table(pd.DataFrame(table), schema)},
        arrays={"components": directions},
    )
