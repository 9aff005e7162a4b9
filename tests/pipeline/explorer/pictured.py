"""A small store over picture files: columns of many kinds, and what can be wrong with images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.explorer.library import Library
from storage.images import write_images
from storage.layout import model_arrays
from storage.ledger import SCHEMA
from storage.store import Store, create_store
from tests.storage.stores import image_table, metadata, values

SEEN = dict(size=[32, 32], interpolation="bicubic", resize_mode="shortest", fill_color=0)
BAD = 3  # was no picture when it was extracted
IMAGES, SHARD = 10, 4


def colour(index: int) -> tuple[int, int, int]:
    return 20 * index, 200 - 20 * index, 90


def columns(n: int) -> pa.Table:
    """The image table's columns of a store, and some that a data set of its own may have."""
    return (
        image_table(n)
        .append_column("count", pa.array([None if i == 4 else i % 3 for i in range(n)], pa.int64()))
        .append_column("sunny", pa.array([i % 2 == 0 for i in range(n)]))
        .append_column("weight", pa.array([float("nan") if i == 2 else 1.5 * i for i in range(n)]))
        .append_column('in the "sky"', pa.array([f"s{i % 3}" for i in range(n)]))
        .append_column("order", pa.array([f"bird {i % 4}" for i in range(n)]))
        .append_column("kind", pa.array([f"k{i % 2}" for i in range(n)]).dictionary_encode())
    )


def pictured(folder: Path, images: int = IMAGES, done: int | None = None, **changes) -> Store:
    """A store whose images are PNG files in ``folder``; ``done`` shards are finished."""
    folder.mkdir(parents=True, exist_ok=True)
    data = []
    for i in range(images):
        path = folder / f"{i}.png"
        Image.new("RGB", (300, 200), colour(i)).save(path)
        if i == BAD:
            path.write_bytes(b"no picture")
        data.append(path.read_bytes())
    table = columns(images)
    at = table.column_names.index("uri")
    uris = pa.array([str(folder / f"{i}.png") for i in range(images)])
    url = str(folder / "store")
    write_images(url, [table.set_column(at, "uri", uris)])
    meta = metadata(preprocessing=SEEN, images=images, shard_size=SHARD, **changes)
    rng = np.random.default_rng(0)
    store = create_store(url, meta, {s.name: rng.normal(size=s.shape) for s in model_arrays(meta)})
    for shard in range(meta.shards if done is None else done):
        of = range(*meta.rows(shard))
        errors = ["truncated or damaged" if i == BAD else None for i in of]
        said = [
            list(of),
            [e is None for e in errors],
            errors,
            [hashlib.sha256(data[i]).hexdigest() for i in of],
            [300] * len(of),
            [200] * len(of),
        ]
        bad = {"truncated or damaged": 1} if BAD in of else {}
        store.write_shard(shard, values(store, shard), pa.table(said, schema=SCHEMA), {"bad": bad})
    return store


def library(*stores: Store) -> Library:
    return Library(
        [s.url for s in stores],
        [],
        lambda store, typed: {"reduce": f"facet reduce --store {typed}"},
    )
