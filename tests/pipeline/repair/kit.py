"""A store whose model leans on the background, made of numbers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.repair.groups import Asked, drawn
from pipeline.texts.classes import Classes
from storage.images import write_images
from storage.store import Store, create_store, open_store
from tests.storage import stores

IMAGES = 240
# What tells the classes apart, and what writes of the background in the very same direction.
GOOD, LEANS = (1, 0), (1, 2)
CLASSES = Classes(("duck", "wren"), (("a",), ("b",)), {"duck": 0, "wren": 1})
ASKED = Asked(None, "label", "place", CLASSES)
READOUT = np.eye(5, dtype=np.float32)[:2]


def table(shuffled: bool = False) -> pa.Table:
    """Images; where asked for, the labels of the held-out half are dealt anew."""
    rng = np.random.default_rng(3)
    rows = stores.image_table(IMAGES)
    labels = rng.integers(0, 2, IMAGES)
    places = np.where(rng.uniform(size=IMAGES) < 0.8, labels, 1 - labels)
    if shuffled:
        held_out, _ = drawn(rows["key"].to_pylist())
        labels[held_out] = rng.permutation(labels[held_out])
    named = pa.array(np.array(["duck", "wren"])[labels])
    rows = rows.set_column(rows.column_names.index("label"), "label", named)
    return rows.append_column("place", pa.array(np.array(["water", "land"])[places]))


def leaning_store(folder: Path, shuffled: bool = False) -> Store:
    """Image 7 is bad. What the model writes does not depend on ``shuffled``."""
    rows, truth = table(shuffled), table()
    meta = stores.metadata(images=IMAGES, shard_size=50, components=("heads", "mlps"))
    url, rng = str(folder / "store"), np.random.default_rng(0)
    write_images(url, [rows])
    maps = {
        "head_map": rng.normal(size=(2, 3, 2, 5)) / 5, "mlp_map": rng.normal(size=(6, 5)) / 5,
        "attention_bias": rng.normal(size=(2, 5)), "bias": rng.normal(size=5),
    }  # fmt: skip
    for head in (GOOD, LEANS):
        maps["head_map"][head] = [[1, -1, 0, 0, 0], [0, 0, 0.3, 0, 0.3]]
    made = create_store(url, meta, maps)
    kept = {name: made.model()[name].values for name in maps}
    duck = np.array([label == "duck" for label in truth["label"].to_pylist()])
    water = np.array([place == "water" for place in truth["place"].to_pylist()])
    for shard in range(meta.shards):
        start, stop = meta.rows(shard)
        of = made.empty_rows(stop - start)
        for name in ("heads", "mlps"):
            of[name][:] = 0.3 * rng.normal(size=of[name].shape)
        of["heads"][:, *GOOD, 0] += np.where(duck[start:stop], 1, -1)
        of["heads"][:, *LEANS, 0] += np.where(water[start:stop], 2, -2)
        of["ln_std"][:] = rng.uniform(0.8, 1.2, stop - start)
        total = np.einsum("blhk,lhke->be", of["heads"], kept["head_map"])
        total += of["mlps"].sum(1) @ kept["mlp_map"] + kept["attention_bias"].sum(0)
        of["embedding"][:] = total / of["ln_std"][:, None] + kept["bias"]
        of["residual"][:] = of["rounding"][:] = 0
        bad = {7: "broken"} if start <= 7 < stop else {}
        for image in bad:
            for name, spec in made.arrays.items():
                if spec.dtype != "str":
                    of[name][image - start] = np.nan
        made.write_shard(shard, of, stores.ledger_rows(made, shard, bad), {"bad": {}})
    return open_store(url)
