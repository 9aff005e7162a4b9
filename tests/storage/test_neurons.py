"""Rows of neurons and states in a store, without a model."""

import numpy as np
import pytest
import xarray as xr

from storage import ledger, neurons, open_store, urls
from storage.errors import StoreError, StoreMismatch
from storage.neurons import State
from tests.storage import stores

LAYER, QUANTITIES = 0, ("coefficients", "peaks", "norms")


@pytest.fixture
def store(tmp_path):
    return stores.fill(stores.new_store(str(tmp_path / "s"), layers=3))


def fill(store, name, shards=(0, 1, 2), bad=()):
    """``value = image + path / 100 + neuron / 10000``, NaN in the rows that are bad."""
    group = urls.open_group(neurons.group_url(store.url, LAYER), mode="r+")
    for shard in shards:
        start, stop = store.meta.rows(shard)
        inside = np.indices(group[name].shape[1:])
        value = inside[-1] / 10000 + (inside[0] / 100 if name == "coefficients" else 0)
        images = np.arange(start, stop).reshape(-1, *[1] * value.ndim)
        rows = (images + value).astype(group[name].dtype)
        rows[[i - start for i in bad if start <= i < stop]] = np.nan
        group[name][start:stop] = rows
        known = ledger.read_part(store.url, shard)
        neurons.finish_shard(store.url, LAYER, name, shard, known)


def test_plain_xarray_opens_the_store_and_its_neurons(store):
    neurons.create(store.url, store.meta, LAYER, QUANTITIES, "float32")
    for name in QUANTITIES:
        fill(store, name)
    place = f"{store.url}/contributions.zarr"
    assert "embedding" in xr.open_zarr(place, consolidated=True)
    plain = xr.open_zarr(place, group=f"neurons/{LAYER}")
    assert plain["coefficients"].dims == ("image", "path", "neuron")
    assert plain["path_layer"].values.tolist() == [1, 1, 1, 2, 2, 2]
    assert plain["path_head"].values.tolist() == [0, 1, 2, 0, 1, 2]
    assert set(plain.coords) == {"path_layer", "path_head"}
    read = open_store(store.url).neurons(LAYER)
    assert list(read) == list(QUANTITIES)
    at = read["coefficients"].isel(image=7, neuron=5)
    found = at.sel(path=(read.path_layer == 2) & (read.path_head == 1))
    assert found.values == pytest.approx(7.0405)
    assert float(read["norms"][9, 23]) == pytest.approx(9.0023)
    assert open_store(store.url).validate() == []


def test_what_is_not_kept_is_said(store):
    with pytest.raises(StoreError, match="no neurons of MLP layer 1"):
        store.neurons(1)
    neurons.create(store.url, store.meta, LAYER, ["norms"], "float16")
    assert list(store.neurons(LAYER)) == ["norms"]
    assert neurons.kept_layers(store.url) == [LAYER]
    neurons.create(store.url, store.meta, LAYER, QUANTITIES, "float16")
    assert set(store.neurons(LAYER)) == set(QUANTITIES)
    assert neurons.done(store.url, LAYER, "coefficients") == set()
    assert neurons.done(store.url, 1, "coefficients") == set()


def test_validate_finds_every_fault(store):
    neurons.create(store.url, store.meta, LAYER, QUANTITIES, "float16")
    fill(store, "coefficients", bad=[5])
    fill(store, "peaks")
    fill(store, "norms", shards=(0, 2))
    assert store.validate() == [
        "neurons of MLP layer 0, shard 1: coefficients has no values for images [5] (1 in all)",
        "neurons of MLP layer 0, shard 1: norms not finished",
    ]


def test_another_dtype(store):
    neurons.create(store.url, store.meta, LAYER, ["norms"], "float16")
    fill(store, "norms")
    neurons.create(store.url, store.meta, LAYER, ["norms"], "float32")  # what overflow asks for
    assert neurons.kept(store.url, LAYER) == {"norms": "float32"}
    assert neurons.done(store.url, LAYER, "norms") == set()
    with pytest.raises(StoreMismatch, match="kept as float32.*`store_dtype` float32"):
        neurons.create(store.url, store.meta, LAYER, ["norms"], "float16")


def test_a_zarr_shard_stays_small_and_divides_the_shard():
    meta = stores.metadata(
        shard_size=1024, images=10_000, layers=12, heads=12, mlp_width=3072, tokens=50, grid=(7, 7)
    )
    for layer in (0, 9):
        spec = neurons.neuron_arrays(meta, layer, {"coefficients": "float16"})["coefficients"]
        assert spec.shards[0] * spec.bytes_per_row <= neurons.SHARD_BYTES
        assert 1024 % spec.shards[0] == 0
        assert spec.shards[0] % spec.chunks[0] == 0


def test_states_are_found_under_their_identity_only(store):
    def write(shards, value, identity="a"):
        values = {"mean": np.full((2, 3), value)}
        state = State(set(shards), values)
        dims = {"mean": ("neuron", "path")}
        neurons.write_state(store.url, 1, "moments", {"of": identity}, state, dims)

    def read(identity="a"):
        return neurons.read_state(store.url, 1, "moments", {"of": identity})

    assert read().shards == set()
    write([0], 1.5)
    write([0, 1], 2.5)
    assert read().shards == {0, 1}
    assert (read().values["mean"] == 2.5).all()
    assert read("b").shards == set()
    place = urls.join(store.url, neurons.STATES, "1")
    assert [n for n in urls.list_names(place) if n != "zarr.json"] == ["moments-2"]
    write([0, 1, 2], 3.5)
    group = urls.open_group(urls.join(place, "moments-3"), mode="r+")
    del group.attrs["facet"]  # as if it had been cut short
    assert read().shards == set()
    neurons.drop_state(store.url, 1, "moments")
    assert [n for n in urls.list_names(place) if n != "zarr.json"] == []


def test_shards_that_are_forgotten_are_kept_no_longer_and_counted_nowhere(store):
    neurons.create(store.url, store.meta, LAYER, QUANTITIES, "float32")
    for name in QUANTITIES:
        fill(store, name)
    for kind, shards in (("moments", {0, 1}), ("top", {2})):
        values = State(shards, {"mean": np.zeros((2, 3))})
        dims = {"mean": ("neuron", "path")}
        neurons.write_state(store.url, LAYER, kind, {}, values, dims)
    neurons.forget_shards(store.url, {1})
    for name in QUANTITIES:
        assert neurons.done(store.url, LAYER, name) == {0, 2}
    assert neurons.read_state(store.url, LAYER, "moments", {}).shards == set()
    assert neurons.read_state(store.url, LAYER, "top", {}).shards == {2}
