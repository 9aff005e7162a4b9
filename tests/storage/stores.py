"""Small stores whose values say where they belong."""

import numpy as np
import pyarrow as pa

from storage.images import write_images
from storage.layout import model_arrays
from storage.ledger import SCHEMA
from storage.metadata import Metadata
from storage.store import Store, create_store


def metadata(**changes) -> Metadata:
    fields = dict(
        architecture="tiny", architecture_digest="a", weights="none:0", weights_digest="w",
        activation="gelu", preprocessing={"size": [8, 8]}, precision="fp32",
        store_dtype="float32", components=("heads", "mlps", "tokens"), token_layers=(1,),
        image_list_digest="i", images=10, shard_size=4, layers=2, heads=3, head_dim=2, width=6,
        mlp_width=24, embed=5, tokens=4, grid=(1, 3), prefix=1,
    )  # fmt: skip
    return Metadata(**{**fields, **changes})


def image_table(n: int, start: int = 0) -> pa.Table:
    index = np.arange(start, start + n)
    return pa.table(
        {
            "index": index,
            "key": [f"image-{i}" for i in index],
            "uri": [f"/nowhere/{i}.png" for i in index],
            "offset": pa.nulls(n, pa.int64()),
            "length": pa.array(index * 10, pa.int64()),
            "label": [f"class-{i % 3}" for i in index],
            "caption": pa.nulls(n, pa.string()),
        }
    )


def new_store(url: str, **changes) -> Store:
    meta = metadata(**changes)
    write_images(url, [image_table(meta.images)])
    rng = np.random.default_rng(0)
    maps = {s.name: rng.normal(size=s.shape) for s in model_arrays(meta)}
    return create_store(url, meta, maps)


def values(store: Store, shard: int) -> dict[str, np.ndarray]:
    """``value = image + position inside the image / 1000``, in every array."""
    start, stop = store.meta.rows(shard)
    rows = store.empty_rows(stop - start)
    for name, spec in store.arrays.items():
        images = np.arange(start, stop)
        if spec.dtype == "str":
            rows[name][:] = [f"{name}-{i}" for i in images]
        else:
            inside = np.arange(int(np.prod(spec.shape[1:]))).reshape(spec.shape[1:]) / 1000
            rows[name][:] = images.reshape(-1, *[1] * inside.ndim) + inside + 1
    return rows


def ledger_rows(store: Store, shard: int, bad: dict[int, str] | None = None) -> pa.Table:
    start, stop = store.meta.rows(shard)
    index = range(start, stop)
    errors = [(bad or {}).get(i) for i in index]
    columns = [
        list(index), [e is None for e in errors], errors,
        [f"{i:064x}" for i in index], [8] * len(index), [8] * len(index),
    ]  # fmt: skip
    return pa.table(columns, schema=SCHEMA)


def fill(store: Store, shards=None) -> Store:
    for shard in range(store.meta.shards) if shards is None else shards:
        store.write_shard(shard, values(store, shard), ledger_rows(store, shard), {"bad": {}})
    return store
