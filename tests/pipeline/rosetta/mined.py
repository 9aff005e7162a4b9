"""What mining two toy models leaves, with matches that are made up."""

import pandas as pd

from pipeline.images.listing import list_images
from pipeline.rosetta.models import load_units
from pipeline.rosetta.tables import SHARED
from storage.images import write_images
from storage.results import as_table, save_result
from storage.rosetta import Setup, keep_card, write_setup
from tests.pipeline.rosetta.kit import TOYS

PLAIN, OTHER = f"{TOYS}:plain", f"{TOYS}:other"
COLUMNS = ["concept", "hub_layer", "hub_unit", "model", "layer", "unit", "correlation", "even",
           "odd", "replicates"]  # fmt: skip
MATCHES = [
    (0, "act1", 0, OTHER, "act1", 1, 0.9, 0.9, 0.9, False),
    (1, "act1", 2, OTHER, "act1", 2, 0.6, 0.6, 0.6, True),
    (1, "act1", 2, OTHER, "act2", 3, 0.8, 0.8, 0.8, False),
    (1, "act1", 3, OTHER, "act1", 4, 0.5, 0.5, 0.5, True),
    (2, "act3", 1, OTHER, "act3", 2, 0.7, 0.7, 0.7, True),
]


def table(rows=MATCHES):
    return pd.DataFrame(rows, columns=COLUMNS)


def mined(url, rows=MATCHES):
    """What the job keeps, with matches given."""
    source = "microworld:n=24,seed=2"
    write_images(url, list_images(source))
    write_setup(url, Setup("digest", 24, 8, 8, source=source))
    models = [load_units(name) for name in (PLAIN, OTHER)]
    units = []
    for model in models:
        keep_card(url, model.card)
        units += [
            (model.card.name, x.name, u, 0.0, 1.0, "alive")
            for x in model.card.layers
            for u in range(x.units)
        ]
    tables = {
        "concepts": table(rows),
        "buddies": pd.DataFrame({n: [] for n in (
            "model_a", "layer_a", "unit_a", "model_b", "layer_b", "unit_b", "correlation", "even",
            "odd", "replicates")}),
        "units": pd.DataFrame(
            units, columns=["model", "layer", "unit", "mean", "std", "state"]
        ),
    }  # fmt: skip
    config = {"models": [PLAIN, OTHER], "generator": None, "rows": len(rows)}
    save_result(
        url, "rosetta", config, {"hub": PLAIN},
        tables={n: as_table(t, SHARED[n]) for n, t in tables.items()},
    )  # fmt: skip
    return url
