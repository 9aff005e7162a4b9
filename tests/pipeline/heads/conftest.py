"""A store whose parts sum to their embeddings."""

import numpy as np
import pyarrow as pa
import pytest

from storage.images import write_images
from storage.store import Store, create_store, open_store
from tests.storage import stores


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """30 images whose parts sum to their embeddings; image 4 is bad."""
    url = str(tmp_path_factory.mktemp("s") / "store")
    meta, rng = stores.metadata(images=30, shard_size=8), np.random.default_rng(0)
    table = stores.image_table(30)
    colours = [["red", "green", "blue"][i % 3 if i % 5 else 0] for i in range(30)]
    table = table.append_column("colour", pa.array(colours))
    table = table.append_column("count", pa.array([1 + i % 2 for i in range(30)]))
    table = table.append_column("group", pa.array([None, *(["day", "night"] * 15)[1:]]))
    write_images(url, [table])
    maps = {s: rng.normal(size=v) for s, v in {
        "head_map": (2, 3, 2, 5), "mlp_map": (6, 5), "attention_bias": (2, 5), "bias": (5,),
    }.items()}  # fmt: skip
    made = create_store(url, meta, maps)
    maps = {k: made.model()[k].values for k in maps}
    for shard in range(meta.shards):
        start, stop = meta.rows(shard)
        rows = made.empty_rows(stop - start)
        for name in ("heads", "mlps", "tokens"):
            rows[name][:] = rng.normal(size=rows[name].shape) + 1
        rows["heads"][:, 0, 1] = 0.5
        rows["heads"][:, 1, 2] += 4 * np.array([[len(c), len(c) % 2] for c in colours[start:stop]])
        rows["ln_std"][:] = rng.uniform(0.5, 2, stop - start)
        total = np.einsum("blhk,lhke->be", rows["heads"], maps["head_map"])
        total += rows["mlps"].sum(1) @ maps["mlp_map"] + maps["attention_bias"].sum(0)
        rows["embedding"][:] = total / rows["ln_std"][:, None] + maps["bias"]
        rows["residual"][:] = rows["rounding"][:] = 0
        bad = {}
        if start <= 4 < stop:
            bad = {4: "broken"}
            for name, spec in made.arrays.items():
                if spec.dtype != "str":
                    rows[name][4 - start] = np.nan
        made.write_shard(shard, rows, stores.ledger_rows(made, shard, bad), {"bad": {}})
    return open_store(url)
