"""A store that an earlier Facet made: opened, used, gone on with, and grown, as it is."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.neurons.choices import parse_mlp_layers
from pipeline.stats.reductions import reduce_store
from storage import neurons, open_store
from storage.errors import FacetError, StoreError, StoreMismatch
from storage.growth import grow
from storage.metadata import parse, require_same
from storage.store import create_store
from tests.storage import stores

# By `data/make_schema_1.py`.
MADE = Path(__file__).parent / "data" / "schema-1.tar.xz"
SIZES = dict(
    images=6, layers=3, tokens=5, grid=(2, 2), head_dim=2, width=4, mlp_width=3, embed=3
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    shutil.unpack_archive(MADE, tmp_path)
    return open_store(str(tmp_path / "store"), mode="r+")


def test_it_opens_and_is_used_as_it_is(store, here):
    assert (store.meta.schema_version, store.meta.grid, store.meta.prefix) == (1, (2, 2), 1)
    assert store.done_shards() == {0}
    found = store.heads(1, 2).values
    assert np.isfinite(found[[0, 1, 3]]).all()
    assert np.isnan(found[[2, 4, 5]]).all()
    assert store.neurons(0)["peaks"].values[:4, 0].tolist() == pytest.approx(
        [0, 1, np.nan, 3], nan_ok=True
    )
    assert neurons.done(store.url, 0, "peaks") == {0}
    assert store.validate() == [
        "shard 1 (images 4-5): not finished",
        "neurons of MLP layer 0, shard 1: peaks not finished",
    ]
    # Its digest is what it was: what was reduced then is found.
    assert int(store.reductions().array("patches_count")) == 3 * 4
    again = reduce_store(store, None)
    assert int(again.array("patches_count")) == 3 * 4


def test_it_is_gone_on_with_and_grown(store, here):
    wanted = stores.metadata(**SIZES)
    require_same(store.meta, wanted, store.url)
    store = create_store(store.url, wanted, {})  # the same: what stands is taken
    stores.fill(store, [1])
    neurons.finish_shard(store.url, 0, "peaks", 1, store.ledger().slice(4))
    assert neurons.done(store.url, 0, "peaks") == {0, 1}
    assert sorted(p.name for p in Path(store.url, "ledger/neurons/0/peaks").iterdir()) == [
        "part-00000000.parquet",
        "part-00000001.parquet",
    ]
    found = reduce_store(store, None)
    assert int(found.array("heads_count")) == 5
    grown = grow(store, [stores.image_table(3, start=6)])
    assert (grown.meta.schema_version, grown.meta.images) == (1, 9)
    assert grown.done_shards() == neurons.done(store.url, 0, "peaks") == {0}
    assert int(open_store(store.url).meta.prefix) == 1


def test_new_layers_keep_their_ledgers_beside_its_own(store):
    neurons.create(store.url, store.meta, 1, ["peaks"], "float32")
    neurons.finish_shard(store.url, 1, "peaks", 0, store.ledger())
    assert Path(store.url, "neurons/1/peaks/part-00000000.parquet").is_file()
    assert neurons.done(store.url, 1, "peaks") == {0}


def test_it_is_no_store_of_a_model_with_registers(store):
    other = stores.metadata(**{**SIZES, "grid": (1, 2), "prefix": 3})
    with pytest.raises(StoreMismatch) as refused:
        require_same(store.meta, other, store.url)
    assert "grid: the store has [2, 2], this run asks for [1, 2]" in str(refused.value)
    assert "prefix: the store has 1, this run asks for 3" in str(refused.value)
    assert "schema_version" not in str(refused.value)


@pytest.mark.parametrize(
    ("tokens", "size", "grid"), [(50, [224, 224], (7, 7)), (7, [24, 16], (3, 2))]
)
def test_its_grid_is_as_high_and_wide_as_its_input(store, tokens, size, grid):
    raw = {**store.meta.to_json(), "tokens": tokens, "preprocessing": {"size": size}}
    assert "grid" not in raw
    assert parse(raw).grid == grid


def test_a_trunk_is_not_known_before_version_4_and_the_store_is_gone_on_with():
    new = stores.metadata(layers=1, reading="attention-pool", trunk_layers=5, trunk_mlp_width=8)
    assert (new.second_order_layers, new.neurons, new.knows_trunk) == (5, 8, True)
    raw = replace(new, schema_version=3).to_json()
    assert not {"trunk_layers", "trunk_mlp_width"} & raw.keys()
    old = parse(raw)
    assert (old.reading, old.schema_version, old.knows_trunk) == ("attention-pool", 3, False)
    require_same(old, new, "here")
    with pytest.raises(StoreMismatch, match="mlp_width: the store has 24, this run asks for 9"):
        require_same(old, replace(new, mlp_width=9), "here")
    with pytest.raises(FacetError, match="schema version 3, which does not say how many layers"):
        parse_mlp_layers("0", old)
    # Models without a pool were known whole.
    plain = replace(stores.metadata(layers=4), schema_version=3)
    assert parse_mlp_layers("all", parse(plain.to_json())) == (0, 1, 2)


def test_a_grid_that_cannot_be_known_is_refused(store):
    raw = {**store.meta.to_json(), "tokens": 4}
    with pytest.raises(StoreError, match="version 1, which keeps no grid, and its 3 patches"):
        parse(raw)


def test_of_the_present_version_nothing_else_stands_in_the_ledger(tmp_path):
    store = stores.fill(stores.new_store(str(tmp_path / "s"), layers=3))
    neurons.create(store.url, store.meta, 0, ["peaks"], "float32")
    neurons.finish_shard(store.url, 0, "peaks", 0, store.ledger().slice(0, 4))
    names = sorted(str(p.relative_to(store.url)) for p in Path(store.url, "ledger").rglob("*"))
    assert names == [f"ledger/part-0000000{shard}.parquet" for shard in range(3)]
    assert neurons.done(store.url, 0, "peaks") == {0}
