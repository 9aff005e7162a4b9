"""Shards' files encoded and decoded here, against zarr's own."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore

from storage import arrays
from storage.layout import ArraySpec, contribution_arrays
from storage.neurons import neuron_arrays
from storage.sharding import find_sharding

from . import stores


@st.composite
def cut_arrays(draw) -> tuple[ArraySpec, int]:
    """An array as stores have them, of random sizes, and one of its shards."""
    dtype = draw(st.sampled_from(["float16", "float32", "str"]))
    chunk = draw(st.lists(st.integers(1, 3), min_size=1, max_size=1 if dtype == "str" else 4))
    shard = [draw(st.integers(1, 5)) * c for c in chunk]
    images = draw(st.integers(1, 3 * shard[0]))
    spec = ArraySpec(
        "x", tuple("abcd"[: len(chunk)]), (images, *shard[1:]), dtype, tuple(chunk), tuple(shard)
    )
    return spec, draw(st.integers(0, (images - 1) // shard[0]))


def rows_of(spec: ArraySpec, shard: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a shard, some of them fill value, whole chunks too."""
    start = shard * spec.shards[0]
    shape = (min(spec.shards[0], spec.shape[0] - start), *spec.shape[1:])
    if spec.dtype == "str":
        texts = np.array(["", "a", f"δ{rng.integers(1000)}", "long " * 9], object)
        return texts[rng.integers(0, rng.integers(1, 5), shape)]
    values = rng.normal(size=shape).astype(spec.dtype)
    values[rng.random(shape[0]) < rng.random()] = np.nan
    values[..., : rng.integers(0, shape[-1] + 1)] = rng.choice([np.nan, 0, 1])
    return values


def by_zarr(store, spec: ArraySpec, shard: int, values: np.ndarray) -> zarr.Array:
    group = zarr.open_group(store, mode="w")
    arrays.create_arrays(group, [spec])
    start = shard * spec.shards[0]
    group[spec.name][start : start + len(values)] = values
    return group[spec.name]


def key_of(spec: ArraySpec, shard: int) -> str:
    return "/".join(["x/c", str(shard), *["0"] * (len(spec.shape) - 1)])


@settings(deadline=None, max_examples=60)
@given(cut_arrays(), st.integers(0, 2**32 - 1))
def test_a_file_is_that_of_zarr_byte_for_byte_and_reads_back(cut, seed):
    spec, shard = cut
    values = rows_of(spec, shard, np.random.default_rng(seed))
    objects = {}
    array = by_zarr(MemoryStore(objects), spec, shard, values)
    sharding = find_sharding(array.metadata.to_dict())
    start, key = shard * spec.shards[0], key_of(spec, shard)
    assert sharding.holds(start, start + len(values))
    assert f"x/c/{sharding.key(start)}" == key
    content = sharding.encode(values)
    assert content == (objects[key].to_bytes() if key in objects else None)
    back = sharding.decode(content, len(values))
    np.testing.assert_array_equal(back, values)  # NaN equal to NaN
    assert back.dtype == values.dtype


@pytest.mark.parametrize("images", [8, 10])
def test_every_array_of_a_store_is_written_without_zarr(images):
    every = ("heads", "mlps", "tokens", "sources", "pool_neurons", "channels")
    meta = stores.metadata(images=images, components=every, varying_bias=True)
    kept = {"coefficients": "float16", "peaks": "float32", "norms": "float16"}
    plain = stores.metadata(images=images)
    specs = [*contribution_arrays(meta), *neuron_arrays(plain, 0, kept).values()]
    group = zarr.open_group(MemoryStore(), mode="w")
    arrays.create_arrays(group, specs)
    for spec in specs:
        sharding = find_sharding(group[spec.name].metadata.to_dict())
        assert (sharding.shape, sharding.shard) == (spec.shape, spec.shards), spec.name


def test_large_chunks_are_encoded_in_threads_and_in_their_order():
    wide = 40_000
    spec = ArraySpec("x", tuple("abc"), (12, 3, wide), "float32", (2, 1, wide), (8, 3, wide))
    values = np.random.default_rng(0).integers(0, 9, (8, 3, wide)).astype("f4")
    objects = {}
    sharding = find_sharding(by_zarr(MemoryStore(objects), spec, 0, values).metadata.to_dict())
    content = sharding.encode(values)
    assert content == objects["x/c/0/0/0"].to_bytes()
    np.testing.assert_array_equal(sharding.decode(content, 8), values)


def test_a_shard_done_again_is_what_was_written_last(tmp_path):
    spec = ArraySpec("x", ("image", "a"), (7, 2), "float32", (2, 1), (4, 2))
    group = zarr.open_group(LocalStore(tmp_path), mode="w")
    arrays.create_arrays(group, [spec])
    target = arrays.Target(str(tmp_path), group, "x")
    file = tmp_path / "x/c/1/0"
    for value in (1.0, np.nan, 3.0):  # the second leaves no file
        target.write(4, np.full((3, 2), value, "f4"), np.full(3, not np.isnan(value)))
        assert file.exists() == (not np.isnan(value))
        np.testing.assert_array_equal(group["x"][4:], np.full((3, 2), value))
    assert np.isnan(group["x"][:4]).all()
    assert [p.name for p in file.parent.iterdir()] == ["0"]


def test_a_killed_writer_leaves_what_one_listing_finds(tmp_path, monkeypatch):
    store = stores.fill(stores.new_store(str(tmp_path)), [0])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("pathlib.Path.replace", killed)
        dying.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            stores.fill(store, [1])
    left = list(tmp_path.rglob("*.tmp"))
    assert left == list(tmp_path.glob("contributions.zarr/*/c/*.tmp")) != []
    assert store.sweep(done={0, 1}) == len(left)
    assert not list(tmp_path.rglob("*.tmp"))
    assert stores.fill(store, [1, 2]).validate() == []


def test_rows_that_are_no_whole_shard_leave_the_others_alone(tmp_path):
    spec = ArraySpec("x", ("image",), (8,), "float32", (2,), (4,))
    group = zarr.open_group(LocalStore(tmp_path), mode="w")
    arrays.create_arrays(group, [spec])
    target = arrays.Target(str(tmp_path), group, "x")
    target.write(0, np.arange(4, dtype="f4"))
    target.write(1, np.full(2, 9, "f4"))
    target.write(0, np.full(1, 8, "f4"))
    np.testing.assert_array_equal(group["x"][:4], [8, 9, 9, 3])


@pytest.mark.parametrize("at", [0, 5, -1, -10])
def test_a_damaged_file_is_told(at, tmp_path):
    spec = ArraySpec("x", ("image",), (8,), "float32", (2,), (4,))
    array = by_zarr(LocalStore(tmp_path), spec, 0, np.arange(4, dtype="f4"))
    content = bytearray((tmp_path / "x/c/0").read_bytes())
    content[at] ^= 0xFF
    with pytest.raises(ValueError, match="checksum"):
        find_sharding(array.metadata.to_dict()).decode(bytes(content), 4)


def test_what_is_read_back_otherwise_is_an_error(tmp_path, monkeypatch):
    spec = ArraySpec("x", ("image",), (8,), "float32", (2,), (4,))
    group = zarr.open_group(LocalStore(tmp_path), mode="w")
    arrays.create_arrays(group, [spec])
    target = arrays.Target(str(tmp_path), group, "x")
    put = arrays.urls.put_chunk
    other = find_sharding(group["x"].metadata.to_dict()).encode(np.ones(4, "f4"))
    for wrong in (other, other[:40], None):

        def put_wrong(folder, key, data, wrong=wrong):
            if wrong is not None:
                put(folder, key, wrong)

        monkeypatch.setattr(arrays.urls, "put_chunk", put_wrong)
        with pytest.raises(OSError, match="rows 0-3 of x read back otherwise"):
            target.write(0, np.arange(4, dtype="f4"))
        (tmp_path / "x/c/0").unlink(missing_ok=True)


def other_arrays() -> list[dict]:
    """Ways to create an array that are none of ours."""
    codec = zarr.codecs.BloscCodec(cname="zstd", shuffle="shuffle", typesize=4)
    check = zarr.codecs.Crc32cCodec()
    ours = {"chunks": (2, 1), "shards": (4, 2), "compressors": [codec, check], "fill_value": np.nan}
    return [
        ours | {"shards": None},
        ours | {"shards": (4, 1)},  # cut along the second axis, too
        ours | {"fill_value": 0.0},
        ours | {"compressors": [codec]},
        ours | {"compressors": [zarr.codecs.ZstdCodec(), check]},
        ours | {"compressors": None},
        ours | {"serializer": zarr.codecs.BytesCodec(endian="big")},
        ours | {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    ]


@pytest.mark.parametrize("how", range(8))
def test_arrays_that_are_kept_otherwise_are_left_to_zarr(how, tmp_path):
    group = zarr.open_group(LocalStore(tmp_path), mode="w")
    array = group.create_array("x", shape=(7, 2), dtype="f4", **other_arrays()[how])
    assert find_sharding(array.metadata.to_dict()) is None
    values = np.arange(8, dtype="f4").reshape(4, 2) + 1
    arrays.Target(str(tmp_path), group, "x").write(0, values)
    np.testing.assert_array_equal(array[:4], values)
