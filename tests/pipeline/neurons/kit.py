"""A small model, and all phases of second-order effects over a store of it, in this process."""

from contextlib import nullcontext
from dataclasses import replace

from pipeline.cluster.work import Workers
from pipeline.neurons.phases import Effects
from storage import open_store
from tests.tiny import FEW_WORDS, tiny

CONFIG = tiny({"width": 32, "layers": 4, "mlp_ratio": 2.0}, FEW_WORDS)
LAYERS, K = (0, 2), 10


def effects(store, model, **changes) -> Effects:
    run = Effects(
        open_store(str(store), mode="r+"), model, Workers("cpu", 1, 1, 6), 0, LAYERS,
        "coefficients", K, "float32", True, lambda what, total: nullcontext(lambda n: None), print,
    )  # fmt: skip
    return replace(run, **changes)
