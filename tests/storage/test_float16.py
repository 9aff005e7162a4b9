"""float16 is for keeping: whoever sums what a store holds does not sum in it."""

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from storage import arrays, neurons, open_store, urls
from storage.errors import NotFinite
from storage.layout import CONTRIBUTIONS, ArraySpec
from tests.storage import stores


@pytest.fixture
def store(tmp_path):
    made = stores.fill(stores.new_store(str(tmp_path / "s"), store_dtype="float16"))
    neurons.create(made.url, made.meta, 0, neurons.QUANTITIES, "float16")
    return made


def forget_attributes(url):
    """As stores were made before arrays carried any."""
    root = urls.open_group(urls.join(url, CONTRIBUTIONS), mode="r+")
    for _, member in root.members(max_depth=None):
        if isinstance(member, zarr.Array):
            member.attrs.clear()
    arrays.consolidate(root)


@pytest.mark.parametrize("older", [False, True])
def test_readers_give_float32_whatever_made_the_store(store, older):
    if older:
        forget_attributes(store.url)
    read = open_store(store.url)
    found = [*read.contributions().values(), *read.neurons(0).values()]
    found += [read.tokens(), read.heads(1, 2), read.mlps(1), read.embeddings(), read.constants()]
    assert {a.dtype for a in found} == {np.dtype("float32")}
    assert {a.load().dtype for a in found} == {np.dtype("float32")}
    kept = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r")
    for name in ("heads", "mlps", "tokens"):
        assert kept[name].dtype == np.float16
        np.testing.assert_array_equal(read.contributions()[name], kept[name][:])
    assert kept["neurons/0/norms"].dtype == np.float16


def test_plain_xarray_reads_no_float16(store, tmp_path):
    place = str(tmp_path / "s" / CONTRIBUTIONS)
    for group in (None, "neurons/0"):
        data = xr.open_zarr(place, group=group)
        assert not [name for name, array in data.items() if array.dtype == np.float16]
    # What is written again stays as small as it was, and is read as before.
    data = xr.open_zarr(place)[["mlps"]].load()
    data.to_zarr(str(tmp_path / "again.zarr"), zarr_format=3)
    again = xr.open_zarr(str(tmp_path / "again.zarr"))
    assert zarr.open_group(str(tmp_path / "again.zarr"))["mlps"].dtype == np.float16
    xr.testing.assert_equal(again["mlps"], data["mlps"])


def test_means_of_a_hundred_thousand_images_are_right(tmp_path):
    n = 100_000
    values = np.random.default_rng(0).normal(30, 5, (n, 2)).astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(values.mean(0, dtype=np.float16)).all()  # what is to be avoided
    place = str(tmp_path / "a.zarr")
    spec = ArraySpec("mlps", ("image", "width"), (n, 2), "float16", (5_000, 2), (10_000, 2))
    group = zarr.open_group(place, mode="w")
    arrays.create_arrays(group, [spec])
    group["mlps"][:] = values
    arrays.consolidate(group)
    true = values.astype(np.float64).mean(0)
    for data in (xr.open_zarr(place), arrays.open_images(place, 10_000)):
        np.testing.assert_allclose(data["mlps"].mean("image"), true, rtol=1e-6)
        np.testing.assert_allclose(data["mlps"].sum("image"), true * n, rtol=1e-6)


def test_one_head_reads_its_layer_alone(store, tmp_path):
    chunk = tmp_path / "s" / CONTRIBUTIONS / "heads" / "c" / "0" / "0" / "0" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[40] ^= 0xFF  # in layer 0
    chunk.write_bytes(damaged)
    assert np.isfinite(store.heads(1, 2)[:4]).all()
    with pytest.raises(Exception, match="checksum"):
        store.heads(0, 2)[:4].load()


@given(st.lists(st.floats(width=16), min_size=1, max_size=40), st.sampled_from(["f2", "f4", "f8"]))
def test_what_is_not_finite_is_told_by_the_bits_as_numpy_tells_it(numbers, dtype):
    values = np.array(numbers, dtype)
    if np.isfinite(values).all():
        arrays.refuse_not_finite("x", values)
        return
    lost = np.flatnonzero(~np.isfinite(values))
    with pytest.raises(
        NotFinite, match=f"in {len(lost)} of {len(values)} rows, the first is {lost[0]}:"
    ):
        arrays.refuse_not_finite("x", values)


@given(
    bits=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=8),
    other=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2**16 - 1)), max_size=2),
    dtype=st.sampled_from(["f2", "i2"]),
)
def test_what_is_read_back_is_compared_as_numpy_compares_it(bits, other, dtype):
    values = np.array(bits, np.uint16)
    back = values.copy()
    for at, changed in other:  # among them other bits of a NaN, and zeros of both signs
        back[at % len(back)] = changed
    values, back = values.view(dtype), back.view(dtype)
    assert arrays._same(back, values) == np.array_equal(back, values, equal_nan=dtype == "f2")
    nan, zero = np.array([0x7E01, 0x8000], np.uint16), np.array([0x7C01, 0], np.uint16)
    assert arrays._same(nan.view("f2"), zero.view("f2"))
