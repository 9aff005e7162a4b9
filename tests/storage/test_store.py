import json
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import arrays, ledger, open_store, urls
from storage.errors import NotFinite, StoreError, StoreMismatch
from storage.images import read_some, write_images
from storage.layout import CONTRIBUTIONS, MODEL, model_arrays
from storage.metadata import parse, require_same
from storage.store import create_store
from storage.views import find_metadata
from tests.storage import stores


@given(
    images=st.integers(1, 17),
    shard_size=st.integers(1, 7),
    dtype=st.sampled_from(["float16", "float32"]),
    order=st.randoms(),
)
@settings(max_examples=15)
def test_every_value_lands_where_it_belongs(tmp_path_factory, images, shard_size, dtype, order):
    store = stores.new_store(
        str(tmp_path_factory.mktemp("s") / "store"),
        images=images, shard_size=shard_size, store_dtype=dtype,
    )  # fmt: skip
    shards = list(range(store.meta.shards))
    order.shuffle(shards)
    stores.fill(store, shards)
    data = open_store(store.url).contributions().load()
    for name, spec in store.arrays.items():
        if spec.dtype == "str":
            assert data[name].values.tolist() == [f"{name}-{i}" for i in range(images)]
            continue
        inside = np.arange(int(np.prod(spec.shape[1:]))).reshape(spec.shape[1:]) / 1000
        want = np.arange(images).reshape(-1, *[1] * inside.ndim) + inside + 1
        np.testing.assert_array_equal(data[name].values, want.astype(spec.dtype))
    assert store.validate() == []


def test_plain_xarray_opens_the_store_with_names_and_coordinates(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    data = xr.open_zarr(str(tmp_path / "s" / CONTRIBUTIONS))
    assert data["heads"].dims == ("image", "layer", "head", "head_dim")
    assert {"key", "label", "layer", "head", "block"} <= set(data.coords)
    assert data.attrs["facet"]["schema_version"] == 4
    assert data["heads"].sel(layer=1, head=2).shape == (10, 2)
    assert store.meta == parse(data.attrs["facet"])


def test_contributions_in_the_joint_space(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    data, model = store.contributions().load(), store.model()
    std = data["ln_std"].values[:, None]
    head = data["heads"].values[:, 1, 2] @ model["head_map"].values[1, 2] / std
    np.testing.assert_allclose(store.heads(layer=1, head=2).values, head, rtol=1e-6)
    np.testing.assert_allclose(
        store.mlps(2).values, data["mlps"].values[:, 2] @ model["mlp_map"].values / std, rtol=1e-6
    )
    constants = model["attention_bias"].values.sum(0) / std + model["bias"].values
    np.testing.assert_allclose(store.constants().values, constants, rtol=1e-6)
    with pytest.raises(IndexError, match="head 3 is out of range: the model has 3"):
        store.heads(layer=0, head=3)


def test_a_component_that_was_not_kept_says_so(tmp_path):
    store = stores.new_store(str(tmp_path / "s"), components=("heads",))
    with pytest.raises(StoreError, match="has no tokens; it was extracted with `components` hea"):
        store.tokens()


def test_no_store_and_half_a_store_say_so(tmp_path):
    with pytest.raises(StoreError, match="no store at .*nothing"):
        open_store(str(tmp_path / "nothing"))
    store = stores.new_store(str(tmp_path / "half"))
    group = urls.open_group(urls.join(store.url, CONTRIBUTIONS), mode="r+")
    del group.attrs["facet"]
    assert find_metadata(store.url) is None


def test_read_only_cannot_write(tmp_path):
    stores.fill(stores.new_store(str(tmp_path / "s")), [0])
    store = open_store(str(tmp_path / "s"))
    with pytest.raises(StoreError, match="opened read-only"):
        stores.fill(store, [1])


def test_another_configuration_is_refused_naming_every_field():
    old = stores.metadata()
    new = stores.metadata(precision="bf16", shard_size=8, versions={"torch": "9"})
    with pytest.raises(StoreMismatch) as error:
        require_same(old, new, "/the/store")
    text = str(error.value)
    assert "precision: the store has 'fp32', this run asks for 'bf16'" in text
    assert "shard_size: the store has 4, this run asks for 8" in text
    assert "versions" not in text
    require_same(old, stores.metadata(versions={"torch": "9"}, revision="x"), "/the/store")


def test_what_was_not_recorded_before_is_named_alone():
    old = stores.metadata()
    new = stores.metadata(preprocessing={"size": [8, 8], "decoding": "2: other rules"})
    with pytest.raises(StoreMismatch) as error:
        require_same(old, new, "/the/store")
    line = "preprocessing.decoding: the store has nothing, this run asks for '2: other rules'"
    assert f"({line}):" in str(error.value)
    require_same(new, new, "/the/store")


def test_metadata_of_another_schema_and_with_missing_fields_is_refused():
    raw = stores.metadata().to_json()
    with pytest.raises(StoreError, match="schema version 99; this Facet reads versions 1 to 4"):
        parse({**raw, "schema_version": 99})
    del raw["width"]
    with pytest.raises(StoreError, match="lacks width; has unknown extra"):
        parse({**raw, "extra": 1})


def test_validate_reports_every_fault_at_once(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    root = tmp_path / "s"
    chunk = root / CONTRIBUTIONS / "heads" / "c" / "1" / "0" / "0" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[40] ^= 0xFF
    chunk.write_bytes(damaged)
    (root / CONTRIBUTIONS / "mlps" / "c" / "2" / "0" / "0").unlink()
    (root / "ledger" / "part-00000000.parquet").unlink()
    found = store.validate()
    assert len(found) == 3, found
    assert found[0] == "shard 0 (images 0-3): not finished"
    assert found[1].startswith("shard 1 (images 4-7): heads cannot be read")
    assert found[2] == "shard 2 (images 8-9): mlps has no values for images [8, 9] (2 in all)"


def test_validate_holds_bad_images_and_ledger_together(tmp_path):
    store = stores.new_store(str(tmp_path / "s"))
    for shard in range(3):
        rows = stores.values(store, shard)
        bad = {5: "empty file"}
        if shard == 1:
            for name, spec in store.arrays.items():
                if spec.dtype != "str" and name != "ln_std":
                    rows[name][1] = np.nan
        store.write_shard(shard, rows, stores.ledger_rows(store, shard, bad), {"bad": {}})
    assert store.validate() == [
        "shard 1 (images 4-7): ln_std has values for images that the ledger calls bad"
    ]


def test_no_number_that_is_not_finite_is_written(tmp_path):
    store = stores.new_store(str(tmp_path / "s"))
    bad, facts = {5: "empty file"}, {"bad": {"empty file": 1}}
    rows = stores.ledger_rows(store, 1, bad)
    numbers = [n for n, spec in store.arrays.items() if spec.dtype != "str"]
    for name, value in zip(numbers, cycle([np.nan, np.inf, -np.inf]), strict=False):
        values = stores.values(store, 1)
        values[name].reshape(4, -1)[2, -1] = value
        with pytest.raises(NotFinite, match=rf"{name}: NaN .* in 1 of 4 rows, the first is 6"):
            store.write_shard(1, values, rows, facts)
    assert store.done_shards() == set()
    values = stores.values(store, 1)
    for name in numbers:  # a bad image's NaN may be any NaN, and comes back as the fill value
        values[name][1] = -np.float32(np.nan)
    store.write_shard(1, values, rows, facts)
    assert store.done_shards() == {1}


def test_nor_in_model_maps_and_datasets(tmp_path):
    meta = stores.metadata()
    maps = {s.name: np.ones(s.shape) for s in model_arrays(meta)}
    maps["mlp_map"][2, 1] = 1e39  # infinite in float32
    with (
        np.errstate(over="ignore"),
        pytest.raises(NotFinite, match=r"mlp_map: NaN .* in 1 of 6 rows, the first is 2"),
    ):
        create_store(str(tmp_path / "s"), meta, maps)
    data = xr.Dataset({"mean": ("k", np.array([1.0, np.nan])), "n": ((), 3)})
    with pytest.raises(NotFinite, match="mean of .*d.zarr: NaN"):
        arrays.write_dataset(str(tmp_path / "d.zarr"), data)
    assert not (tmp_path / "d.zarr").exists()


def test_validate_names_maps_that_are_not_finite(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    urls.open_group(str(tmp_path / "s" / MODEL), mode="r+")["bias"][3] = np.inf
    assert store.validate() == ["model.zarr: bias has no values for rows [3] (1 in all)"]


def test_validate_reads_every_image_again_where_it_is_given_a_reader(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")), [0, 1])
    rows = stores.ledger_rows(store, 2)
    nothing_read = rows.set_column(3, "sha256", pa.array([f"{8:064x}", None]))
    store.write_shard(2, stores.values(store, 2), nothing_read, {"bad": {}})
    asked = []

    def again(rows):
        asked.extend(index := rows["index"].to_pylist())
        found = {2: ("f" * 64, None), 5: (None, "gone"), 6: ("0" * 64, None)}
        return [found.get(i, (f"{i:064x}", None)) for i in index]

    assert store.validate() == []
    assert store.validate(sources=again) == [
        "shard 0 (images 0-3): 1 images of the source have other contents (image-2)",
        "shard 1 (images 4-7): 1 images of the source have other contents (image-6)",
        "shard 1 (images 4-7): 1 images of the source cannot be read again (image-5: gone)",
    ]
    assert asked == list(range(9))
    with pytest.raises(StoreError, match=r"from pipeline.images.again import digests"):
        store.validate(sources=True)


def test_a_damaged_ledger_part_is_named(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    part = tmp_path / "s" / "ledger" / "part-00000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"part-00000001.parquet is damaged.*Delete it"):
        ledger.read_part(store.url, 1)
    (fault,) = store.validate()
    assert fault.startswith("shard 1 (images 4-7): ledger part cannot be read")


def test_a_ledger_part_of_no_shard_and_a_short_image_table(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    part = tmp_path / "s" / "ledger" / "part-00000000.parquet"
    part.with_name("part-00000007.parquet").write_bytes(part.read_bytes())
    stores.write_images(store.url, [stores.image_table(9)])
    found = store.validate()
    assert found[0] == "images: 9 rows, the metadata says 10"
    assert "part-00000007.parquet belongs to no shard" in found[1]


def test_sweep_removes_what_a_killed_writer_left(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    left = tmp_path / "s" / CONTRIBUTIONS / "heads" / "c" / "0" / "0" / "0" / "0.abc.partial"
    left.write_bytes(b"half")
    assert store.sweep() == 1
    assert not left.exists()
    assert store.validate() == []


def test_sweep_looks_wherever_a_writer_may_have_died(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s")))
    root = tmp_path / "s"
    chunks = [p for p in root.rglob("contributions.zarr/*/c/**/*") if p.is_file()]
    kept = [*chunks, *root.rglob("*.parquet"), *root.rglob("zarr.json")]
    assert {p.relative_to(root).parts[1] for p in chunks} >= {*store.arrays} - {"label"}
    left = [p.with_suffix(f".{'0' * 32}.partial") for p in (*chunks, *root.rglob("zarr.json"))]
    left += [p.with_name(f".{p.name}.{'0' * 32}.tmp") for p in root.rglob("*.parquet")]
    # And of a shard that nobody finished.
    left += [root / CONTRIBUTIONS / "heads" / "c" / "99" / "0" / "0" / "0.abc.partial"]
    left[-1].parent.mkdir(parents=True)
    left = [p for p in left if MODEL not in p.parts]  # the driver alone writes it, before all else
    for path in left:
        path.write_bytes(b"half")
    assert store.sweep() == len(left)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


@given(
    facts=st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text()), max_size=9),
    error=st.text() | st.just("\x18\x05facet\x18\x02{}"),
    length=st.sampled_from([0, 1, 100, 127, 128, 16_383, 16_384, 100_000]),
    started=st.none() | st.floats(0, 1e10),
)
@settings(max_examples=30)
def test_facts_are_those_that_parquet_reads(facts, error, length, started, tmp_path_factory):
    url = str(tmp_path_factory.mktemp("store"))
    facts["long"] = "x" * length
    rows = pa.table([[0], [False], [error], [error], [0], [0]], schema=ledger.SCHEMA)
    ledger.write_part(url, 3, rows, facts, started=started)
    metadata = pq.read_metadata(ledger.part_url(url, 3)).metadata
    ((found, span),) = ledger.read_work(url, [3])
    assert found == facts == json.loads(metadata[b"facet"])
    if started is None:
        assert span is None
        assert b"facet_work" not in metadata
    else:
        kept = json.loads(metadata[b"facet_work"])
        assert span == (started, kept["finished"])


def test_a_part_without_facts_has_none_and_a_cut_one_is_damaged(tmp_path):
    url = str(tmp_path)
    rows = pa.table(
        [[0], [False], ["\x18\x05facet\x18\x02{}"], [""], [0], [0]], ledger.SCHEMA.names
    )
    place = Path(ledger.part_url(url, 0))
    place.parent.mkdir()
    pq.write_table(rows, place)
    assert list(ledger.read_work(url, [0])) == [({}, None)]
    ledger.write_part(url, 1, rows, {"bad": {}}, started=1.0)
    whole = Path(ledger.part_url(url, 1)).read_bytes()
    for size in (0, 1, 7, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        Path(ledger.part_url(url, 1)).write_bytes(whole[:size])
        with pytest.raises(StoreError, match=r"part-00000001.parquet is damaged.*Delete it"):
            list(ledger.read_work(url, [1]))


def test_an_unwritable_place_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file is a file: give `store` a folder"):
        urls.check_writable(str(tmp_path / "file" / "store"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_keeps_finished_shards_and_says_so(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
    try:
        store = stores.fill(stores.new_store(str(mount / "s")), [0])
        with (
            (mount / "ballast").open("wb", buffering=0) as file,
            pytest.raises(OSError, match="No space"),
        ):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(StoreError, match=r"shard 1 cannot be written.*No space left.*are kept"):
            stores.fill(store, [1])
        assert store.done_shards() == {0}
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_process_that_read_the_image_table_ends_as_it_means_to(tmp_path):
    """Arrow's threads let go of a part while Python is ending; they did so half of the times."""
    write_images(str(tmp_path), [stores.image_table(200)])
    read = "import sys; from storage.images import read_keys, read_rows; url = sys.argv[1];"
    code = f"{read} list(read_keys(url)); read_rows(url, 0, 20); exit(2)"
    line = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    assert {subprocess.run(line, cwd=root).returncode for _ in range(8)} == {2}


def test_some_rows_of_the_image_table_are_those_that_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.images.ROWS_PER_IMAGE_PART", 5000)  # row groups hold 4096
    write_images(str(tmp_path), [stores.image_table(12_000)])
    for numbers in ([11_999, 3, 5000, 4999, 3, 4096], [7], [6000, 9500]):
        rows = read_some(str(tmp_path), np.array(numbers))
        assert rows["index"].to_pylist() == sorted(set(numbers))
        assert rows["key"].to_pylist() == [f"image-{i}" for i in sorted(set(numbers))]
