"""Images that two stores have in common, in whatever order and shards, finished or not."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.between.common import common_images
from pipeline.between.crossed import Block, merge, shard_state
from storage import ledger, urls
from storage.images import write_images
from storage.layout import model_arrays
from storage.store import Store, create_store
from tests.refusals import refused
from tests.storage import stores

LATENT = np.random.default_rng(1).normal(size=(20, 4))


def store_of(url: str, pictures: list[int], shard: int, bad: int | None = None, **changes) -> Store:
    """A store of numbered pictures, whose rows follow from their numbers."""
    meta = stores.metadata(
        images=len(pictures), shard_size=shard, image_list_digest=str(pictures), **changes
    )
    table = stores.image_table(len(pictures))
    keys = pa.array([f"picture-{i}" for i in pictures])
    write_images(url, [table.set_column(1, "key", keys)])
    maps = {s.name: np.ones(s.shape) for s in model_arrays(meta)}
    store = create_store(url, meta, maps)
    mixed = np.random.default_rng(meta.width)
    for i in range(meta.shards):
        start, stop = meta.rows(i)
        rows = stores.values(store, i)
        for name, spec in store.arrays.items():
            if spec.dtype != "str":
                weights = mixed.normal(size=(4, int(np.prod(spec.shape[1:]))))
                made = (LATENT[pictures[start:stop]] @ weights) ** 2 + 0.1
                rows[name] = made.reshape(stop - start, *spec.shape[1:]).astype(spec.dtype)
                rows[name][np.array(pictures[start:stop]) == bad] = np.nan
        mixed = np.random.default_rng(meta.width)  # the same weights in every shard
        at = None if bad is None or bad not in pictures else pictures.index(bad)
        store.write_shard(i, rows, stores.ledger_rows(store, i, {at: "cut"}), {"bad": {}})
    return store


def factors(store: Store, layer: int) -> np.ndarray:
    data = store.contributions()
    norm = np.linalg.norm(data["embedding"].values.astype(float), axis=1)
    return data["heads"].values[:, layer] / (norm * data["ln_std"].values)[:, None, None]


@pytest.mark.parametrize("pictures", [list(range(13)), [7, 3, 12, 19, 6, 18, 8, 2, 9, 5, 0]])
def test_rows_of_the_same_picture_meet(pictures, tmp_path, here):
    source = store_of(str(tmp_path / "a"), pictures, 4, bad=5)
    target = store_of(str(tmp_path / "b"), list(range(11)), 3, bad=2, heads=2, width=8)
    common = common_images(source, target)
    assert common.only_from == sum(i > 10 for i in pictures)
    assert common.only_to == sum(i not in pictures for i in range(11))
    block = Block((1,), (0, 1), True)
    state = merge(
        [shard_state(source.url, target.url, None, block, common.rows, i) for i in range(4)]
    )
    both = [i for i in range(11) if i in pictures and i not in (2, 5)]
    x = factors(source, 1)[[pictures.index(i) for i in both]]
    y = np.concatenate([factors(target, i)[both] for i in (0, 1)], axis=1)
    flat = [(rows - rows.mean(0)).reshape(len(both), -1) for rows in (x, y)]
    np.testing.assert_allclose(state.cross, flat[0].T @ flat[1], rtol=1e-5, atol=1e-9)
    assert state.source.n == state.target.n == sum(p.n for p in state.embeddings) == len(both)
    assert state.lost == 1
    assert state.absent == sum(i not in pictures for i in range(11) if i != 2)
    # What is no longer finished is lost, and nothing of it is read.
    urls.remove(ledger.part_url(source.url, 0))
    state = merge(
        [shard_state(source.url, target.url, None, block, common.rows, i) for i in range(4)]
    )
    gone = set(pictures[:4]) & set(both)
    assert state.source.n == len(both) - len(gone)


def test_lists_without_a_common_image_are_refused(tmp_path):
    source = store_of(str(tmp_path / "a"), [1, 2], 2)
    target = store_of(str(tmp_path / "b"), [3, 4], 2)
    with refused(ValueError, "have no image in common: .*'picture-1' and 'picture-3'"):
        common_images(source, target)
