"""Search in edited embeddings against a sort of all of them."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.heads.ablation import StoredParts
from pipeline.heads.edits import edit_from, edited_embedding
from pipeline.heads.studies import maps_of
from pipeline.search.edited import edited_vectors, nearest_edited
from pipeline.search.scan import Queries
from pipeline.stats.reductions import reduce_store
from storage.images import write_images
from storage.store import Store, create_store, open_store
from tests.storage import stores

pytestmark = pytest.mark.usefixtures("here")
N, BAD = 40, 4


@pytest.fixture
def store(tmp_path) -> Store:
    """40 images of random parts, in shards of 8; image 4 is bad."""
    url, rng = str(tmp_path / "store"), np.random.default_rng(0)
    meta = stores.metadata(images=N, shard_size=8, components=("heads", "mlps"), token_layers=())
    table = stores.image_table(N).append_column("odd", pa.array([i % 2 for i in range(N)]))
    write_images(url, [table])
    maps = {s: rng.normal(size=v) for s, v in {
        "head_map": (2, 3, 2, 5), "mlp_map": (6, 5), "attention_bias": (2, 5), "bias": (5,),
    }.items()}  # fmt: skip
    made = create_store(url, meta, maps)
    for shard in range(meta.shards):
        start, stop = meta.rows(shard)
        rows = made.empty_rows(stop - start)
        for name in ("heads", "mlps", "embedding"):
            rows[name][:] = rng.normal(size=rows[name].shape) + 1
        rows["ln_std"][:] = rng.uniform(0.5, 2, stop - start)
        rows["residual"][:] = rows["rounding"][:] = 0
        bad = {BAD: "broken"} if start <= BAD < stop else {}
        for at in bad:
            for name, spec in made.arrays.items():
                if spec.dtype != "str":
                    rows[name][at - start] = np.nan
        made.write_shard(shard, rows, stores.ledger_rows(made, shard, bad), {"bad": {}})
    return open_store(url)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("where", [None, "odd == 1"])
def test_the_nearest_are_those_of_a_sort(store, metric, centred, where, monkeypatch):
    monkeypatch.setattr("pipeline.heads.studies.READ_BYTES", 500)  # a few images at a time
    found = reduce_store(store)
    gains = ({(0, 1): 0.0, (1, 2): -0.5}, {0: 0.0, 2: 2.0}, {1: 0.0})
    edit = edit_from(store, reduce_store(store, "odd == 0"), "some", *gains)
    data = store.contributions()
    ok = np.array([i for i in range(N) if i != BAD])
    parts = StoredParts(
        *(data[name].values[ok] for name in ("heads", "mlps", "embedding", "ln_std"))
    )
    edited = edited_embedding(parts, edit, maps_of(store))
    images = edited - (edited.mean(0) if centred else 0)
    texts = np.random.default_rng(1).normal(size=(2, 5))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    asked = [39, 0, 17]
    vectors = edited_vectors(store, edit, asked)
    places = [ok.tolist().index(i) for i in asked]
    np.testing.assert_allclose(vectors, edited[places], rtol=1e-6)
    queries = Queries(
        np.concatenate([vectors, texts]).astype(np.float32), np.array([False] * 3 + [True] * 2)
    )
    nearest = nearest_edited(
        store, edit, queries, found, metric=metric, top=6, where=where, centred=centred
    )
    wanted = np.concatenate([images[places], texts])
    if metric == "cosine":
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        images = images / np.linalg.norm(images, axis=1, keepdims=True)
    scores = wanted @ images.T
    scores[:, [where is not None and i % 2 == 0 for i in ok]] = -np.inf
    order = np.argsort(-scores, axis=1)[:, :6]
    np.testing.assert_array_equal(nearest.rows_qk, ok[order])
    np.testing.assert_allclose(
        nearest.scores_qk, np.take_along_axis(scores, order, 1), rtol=1e-5, atol=1e-6
    )
