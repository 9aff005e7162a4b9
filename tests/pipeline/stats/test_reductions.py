"""Reductions of whole stores against NumPy on all good rows at once."""

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster import machines, tasks
from pipeline.stats import reductions
from pipeline.stats.reductions import reduce_store
from pipeline.subsets import SubsetError
from storage import ledger, open_store, urls
from storage.errors import NotFinite, StoreError
from storage.images import write_images
from storage.layout import CONTRIBUTIONS, model_arrays
from storage.reductions import find_reductions, subset_url
from storage.store import Store, create_store
from tests.storage import stores

# No Ray: what a task does is the same in this process.
pytestmark = pytest.mark.usefixtures("here")


def rows_of(n: int, seed: int, **sizes: int) -> dict[str, np.ndarray]:
    """Random rows of every array of a store, whose means are large beside their spread."""
    rng = np.random.default_rng(seed)
    meta = stores.metadata(**sizes)
    shapes = {
        "heads": (meta.layers, meta.heads, meta.head_dim),
        "mlps": (meta.layers + 1, meta.width),
        "tokens": (meta.tokens, meta.embed),
        "embedding": (meta.embed,),
    }
    rows = {k: rng.normal(size=(n, *s)) + 3 * rng.normal(size=s) for k, s in shapes.items()}
    rows["ln_std"] = rng.uniform(0.5, 2, n)
    rows["residual"] = rows["rounding"] = np.zeros(n)
    return {k: v.astype(np.float32) for k, v in rows.items()}


def new_store(url: str, rows: dict[str, np.ndarray], split: np.ndarray, **changes: object) -> Store:
    """A store of these images, no shard of it written."""
    n = len(split)
    meta = stores.metadata(images=n, **changes)
    table = stores.image_table(n).append_column("split", pa.array(split))
    write_images(url, [table])
    rng = np.random.default_rng(0)
    return create_store(url, meta, {s.name: rng.normal(size=s.shape) for s in model_arrays(meta)})


def write(store: Store, rows: dict[str, np.ndarray], ok: np.ndarray, shards: list[int]) -> None:
    for shard in shards:
        start, stop = store.meta.rows(shard)
        good = ok[start:stop]
        values = store.empty_rows(stop - start)
        for name, data in rows.items():
            values[name][good] = data[start:stop][good]
        bad = {int(i): "broken" for i in np.flatnonzero(~ok) if start <= i < stop}
        store.write_shard(shard, values, stores.ledger_rows(store, shard, bad), {"bad": {}})


def scaled(rows: dict[str, np.ndarray], keep: np.ndarray, prefix: int = 1) -> dict[str, np.ndarray]:
    """Rows of every reduction on the published scale, in extended precision."""
    wide = {k: v[keep].astype(np.longdouble) for k, v in rows.items()}
    norm = np.sqrt((wide["embedding"] ** 2).sum(1))
    both = norm * wide["ln_std"]
    tokens = wide["tokens"] / norm[:, None, None]
    return {
        "heads": wide["heads"] / both[:, None, None, None],
        "mlps": wide["mlps"] / both[:, None, None],
        "inverse_scale": 1 / both,
        "tokens": tokens,
        "patches": tokens[:, prefix:].reshape(-1, tokens.shape[-1]),
        "embedding": wide["embedding"] / norm[:, None],
    }


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 14),
    shard_size=st.integers(1, 6),
    sizes=st.fixed_dictionaries(
        {
            "layers": st.integers(1, 2),
            "heads": st.integers(1, 3),
            "head_dim": st.integers(1, 4),
            "embed": st.integers(1, 5),
            "prefix": st.sampled_from([1, 3]),  # with registers, too
            "grid": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        }
    ),
    subset=st.booleans(),
)
def test_any_chunking_order_and_mask_gives_the_moments_of_the_good_rows(
    tmp_path_factory, seed, n, shard_size, sizes, subset
):
    rng = np.random.default_rng(seed)
    sizes["tokens"] = sizes["prefix"] + sizes["grid"][0] * sizes["grid"][1]
    rows = rows_of(n, seed, **sizes)
    ok, split = rng.random(n) < 0.8, np.where(rng.random(n) < 0.6, "val", "train")
    ok[0], split[0] = True, "val"
    url = str(tmp_path_factory.mktemp("s") / "store")
    store = new_store(url, rows, split, shard_size=shard_size, **sizes)
    where = "split == 'val'" if subset else None
    order = [0, *(1 + rng.permutation(store.meta.shards - 1)).tolist()]
    half = (len(order) + 1) // 2
    for batch in (order[:half], order[half:]):
        write(store, rows, ok, batch)
        found = reduce_store(store, where)
    keep = ok & ((split == "val") | (not subset))
    for name, data in scaled(rows, keep, sizes["prefix"]).items():
        mean = data.mean(0)
        centred = data - mean
        size = float(np.abs(data).max())
        close = {"rtol": 1e-10, "atol": 1e-10 * size**2}
        assert found.count(name) == len(data)
        np.testing.assert_allclose(found.array(f"{name}_mean"), mean.astype(float), **close)
        if f"{name}_covariance" in found.data:
            second = np.einsum("n...k,n...j->...kj", centred, centred) / len(data)
            np.testing.assert_allclose(found.array(f"{name}_covariance"), second, **close)
        else:
            np.testing.assert_allclose(
                found.array(f"{name}_variance"), (centred**2).mean(0), **close
            )


@pytest.fixture
def filled(tmp_path):
    """20 images in 5 shards; images 3 and 9 are bad."""
    rows, ok = rows_of(20, 1), np.ones(20, bool)
    ok[[3, 9]] = False
    split = np.array(["val", "train"] * 10)
    store = new_store(str(tmp_path / "store"), rows, split)
    write(store, rows, ok, [0, 1, 2, 3, 4])
    return store, rows, ok, split


def test_a_store_with_bad_images_equals_the_store_without_them(filled, tmp_path):
    store, rows, ok, split = filled
    good = {k: v[ok] for k, v in rows.items()}
    without = new_store(str(tmp_path / "good"), good, split[ok], shard_size=7)
    write(without, good, np.ones(18, bool), [0, 1, 2])
    a, b = (reduce_store(s).data.load() for s in (store, without))
    xr.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_a_second_batch_is_added_without_reading_the_first_again(tmp_path, monkeypatch):
    rows, ok = rows_of(20, 2), np.ones(20, bool)
    store = new_store(str(tmp_path / "store"), rows, np.array(["val"] * 20))
    read: list[int] = []
    plain = reductions.shard_states

    def spy(url, where, components, shard):
        read.append(shard)
        return plain(url, where, components, shard)

    monkeypatch.setattr(reductions, "shard_states", spy)
    write(store, rows, ok, [0, 3])
    assert reduce_store(store, components=["heads"]).count() == 8
    write(store, rows, ok, [1, 2, 4])
    found = reduce_store(store, components=["heads"])
    assert (sorted(read[:2]), sorted(read[2:])) == ([0, 3], [1, 2, 4])
    assert found.facts.shards == {"heads": [(0, 4)]}
    assert "mlps_mean" not in found.data
    with pytest.raises(StoreError, match="no mlps_mean in these reductions"):
        found.block_mean(0)
    found = reduce_store(store, components=["mlps"])
    assert sorted(read[5:]) == [0, 1, 2, 3, 4]
    assert found.count("mlps") == found.count("heads") == 20
    reduce_store(store, components=["heads", "mlps"])
    assert len(read) == 10


def test_waves_are_kept_so_that_a_stopped_run_goes_on(filled, monkeypatch):
    store = filled[0]
    monkeypatch.setattr(machines, "cpus", lambda: 1)
    monkeypatch.setattr(tasks, "SCANNED_PER_CPU", 2)
    plain = reductions.shard_states

    def fails_late(url, where, components, shard):
        if shard == 3:
            raise KeyboardInterrupt
        return plain(url, where, components, shard)

    monkeypatch.setattr(reductions, "shard_states", fails_late)
    with pytest.raises(KeyboardInterrupt):
        reduce_store(store)
    assert store.reductions().facts.counted("heads") == {0, 1}
    with pytest.raises(StoreError, match="to its end"):
        store.reductions().head_pca(0, 0)
    monkeypatch.setattr(reductions, "shard_states", plain)
    steps: list[int] = []
    found = reduce_store(store, report=steps.append)
    assert steps == [2, 3]
    assert found.count() == 18


def test_readers_lift_to_the_joint_space(filled):
    store, rows, ok, _ = filled
    found = reduce_store(store)
    norm = np.linalg.norm(store.embeddings().values[ok].astype(float), axis=1)[:, None]
    head = (store.heads(1, 2).values[ok] / norm).astype(float)
    block = (store.mlps(1).values[ok] / norm).astype(float)
    np.testing.assert_allclose(found.head_mean(1, 2), head.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        found.head_covariance(1, 2), np.cov(head.T, bias=True), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(found.block_mean(1), block.mean(0), rtol=1e-5, atol=1e-6)
    unit = scaled(rows, ok)["embedding"].astype(float)
    patches = scaled(rows, ok)["patches"].astype(float)
    for pca, data, n in (
        (found.head_pca(1, 2, 2), head, 2),
        (found.block_pca(1, 3), block, 3),
        (found.embedding_pca(4), unit, 4),
        (found.patch_pca(5), patches, 5),
    ):
        _, singular, right = np.linalg.svd(data - data.mean(0), full_matrices=False)
        assert pca["components"].dims == ("component", "embed")
        np.testing.assert_allclose(pca["variance"], singular[:n] ** 2 / len(data), rtol=1e-4)
        cosines = np.abs((pca["components"].values * right[:n]).sum(1))
        np.testing.assert_allclose(cosines, 1, atol=1e-4)
    with pytest.raises(StoreError, match="3 principal components asked for; 2 are kept"):
        found.head_pca(0, 0, 3)


def test_plain_xarray_reads_means_counts_and_coordinates(filled):
    store = filled[0]
    reduce_store(store, "split == 'val'")
    data = xr.open_zarr(subset_url(store.url, "split == 'val'"))
    assert int(data["heads_count"]) == 10
    assert data["heads_covariance"].sel(layer=1, head=0).dims == ("head_dim", "other_head_dim")
    assert data.attrs["facet"]["where"] == "split == 'val'"
    assert "ln_std * ‖embedding‖" in data.attrs["facet"]["scale"]
    assert zarr.open_group(urls.join(store.url, "reductions.zarr"), mode="r")


def test_a_head_that_is_constant_and_a_subset_of_one_image_have_no_components(tmp_path):
    rows, ok = rows_of(6, 3), np.ones(6, bool)
    rows["heads"][:, 0, 1] = 0
    store = new_store(str(tmp_path / "store"), rows, np.array(["val"] + ["train"] * 5))
    write(store, rows, ok, [0, 1])
    found = reduce_store(store)
    assert not found.head_pca(0, 1)["components"].values.any()
    assert found.head_pca(0, 0)["variance"].values.all()
    one = reduce_store(store, "split == 'val'")
    assert one.count() == 1
    assert not one.array("heads_pca_variance").values.any()


def test_what_cannot_be_reduced_is_refused(filled, tmp_path):
    store, rows, ok, split = filled
    with pytest.raises(StoreError, match="no reductions of this subset"):
        store.reductions()
    with pytest.raises(SubsetError, match="matches no image of the 20"):
        reduce_store(store, "split == 'test'")
    bad = np.flatnonzero(~ok)[0]
    with pytest.raises(SubsetError, match=r"matches no image that is ok in the 5 finished"):
        reduce_store(store, f"index == {bad}")
    with pytest.raises(SubsetError, match="no column 'splt' .did you mean 'split'"):
        reduce_store(store, "splt == 'val'")
    with pytest.raises(StoreError, match="components neurons cannot be reduced"):
        reduce_store(store, components=["neurons"])
    empty = new_store(str(tmp_path / "empty"), rows, split)
    with pytest.raises(StoreError, match="no shard of .* is finished"):
        reduce_store(empty)
    group = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r+")
    group["tokens"][6] = np.nan
    with pytest.raises(StoreError, match="are ok in the ledger and hold no values"):
        reduce_store(store)
    group["tokens"][6] = 1.0
    group["mlps"][7, 0, 0] = np.inf
    with pytest.raises(
        NotFinite, match=r"mlps, rows from image \d on: .*NaN or infinite values .row \d"
    ):
        reduce_store(store)
    group["mlps"][7, 0, 0] = 0.0
    group["embedding"][10, 1] = np.nan
    with pytest.raises(NotFinite, match=r"images \[10\] are ok in the ledger, and their embedding"):
        reduce_store(store)


def test_reductions_of_another_store_or_half_written_ones_do_not_count(filled):
    store = filled[0]
    found = reduce_store(store)
    place = subset_url(store.url, None)
    group = urls.open_group(place, mode="r+")
    facts = dict(group.attrs["facet"])
    group.attrs["facet"] = {**facts, "store": "of another"}
    with pytest.raises(StoreError, match="no reductions"):
        open_store(store.url).reductions()
    del group.attrs["facet"]
    with pytest.raises(StoreError, match="no reductions"):
        open_store(store.url).reductions()
    again = reduce_store(store)
    xr.testing.assert_allclose(again.data.load(), found.data.load(), rtol=1e-12)


def test_on_ray_the_same_as_in_process(filled, ray_cluster, tmp_path):
    store = filled[0]
    plain = reduce_store(store).data.load()
    urls.remove(urls.join(store.url, "reductions.zarr"))
    machines.work("ray")
    found = reduce_store(store).data.load()
    xr.testing.assert_allclose(found, plain, rtol=1e-10, atol=1e-14)
    reduced = {n.removesuffix("_count") for n in found if "_count" in n}
    assert reduced == {"heads", "inverse_scale", "mlps", "tokens", "patches", "embedding"}
    group = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r+")
    group["mlps"][0] = np.nan
    urls.remove(urls.join(store.url, "reductions.zarr"))
    with pytest.raises(StoreError, match=r"^mlps: images from 0 on"):
        reduce_store(store, components=["mlps"])


def test_a_shard_that_is_done_again_is_counted_as_it_is_now(filled):
    store, rows, ok, _ = filled
    whole, train = reduce_store(store), reduce_store(store, "index >= 16")
    assert (whole.count(), train.count()) == (18, 4)
    urls.remove(ledger.part_url(store.url, 2))  # of images 8 to 11
    reductions.forget_redone(store)
    assert find_reductions(store.url, store.meta, None) is None
    assert find_reductions(store.url, store.meta, "index >= 16") is None  # read, if none matched
    ok[9] = True  # what could not be read then is readable by now
    write(store, rows, ok, [2])
    found = reduce_store(store)
    assert found.count() == 19
    mean = scaled(rows, ok)["embedding"].mean(0)
    np.testing.assert_allclose(found.array("embedding_mean"), mean.astype(float), rtol=1e-10)
    reductions.forget_redone(store)  # nothing lacks: nothing is dropped
    assert find_reductions(store.url, store.meta, None) is not None
