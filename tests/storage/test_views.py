"""A view of a store: what is found is kept elsewhere, what the store is stays where it is."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from storage import ledger, neurons, open_store, urls
from storage.errors import StoreError
from storage.growth import follow, grow
from storage.neurons import State
from storage.reductions import Facts, find_reductions, write_reductions
from storage.results import latest_result, save_result
from storage.store import Store
from storage.views import find, find_metadata, make
from storage.weights import remember, remembered
from tests.refusals import refused
from tests.storage import stores

LAYER = 0
COUNTED = {"heads_count": 10, "heads_mean": np.zeros(18)}


@pytest.fixture
def store(tmp_path):
    return stores.fill(stores.new_store(str(tmp_path / "s"), layers=3))


def open_view(url: str, place: str) -> Store:
    make(url, place, find(url)[1])
    return open_store(place)


def tree(url: str) -> dict[str, bytes]:
    return {str(p.relative_to(url)): p.read_bytes() for p in Path(url).rglob("*") if p.is_file()}


def test_what_is_found_goes_to_the_view_and_the_rest_is_the_stores(store, tmp_path):
    remember(store.url, "/weights.pt")
    before, place = tree(store.url), str(tmp_path / "v")
    made = open_view(store.url, place)
    assert (made.url, made.data, made.meta) == (place, store.url, store.meta)
    view = open_store(place, mode="r+")
    assert (view.url, view.data, find_metadata(place)) == (place, store.url, store.meta)
    assert np.array_equal(view.heads(1, 2), store.heads(1, 2))
    assert view.images().equals(store.images())
    assert view.ledger().equals(store.ledger())
    neurons.create(place, view.meta, LAYER, ["norms"], "float32")
    fill_view(view)
    write_reductions(place, view.meta, COUNTED, facts(view))
    save_result(place, "textspan", {}, {})
    assert remembered(place) == "/weights.pt"
    remember(place, "/moved.pt")
    assert view.neurons(LAYER)["norms"][7, 5] == pytest.approx(7.0005)
    assert view.reductions().head_mean(0, 0).shape == (5,)  # by the store's model
    assert latest_result(place, "textspan").url.startswith(place)
    assert remembered(place) == "/moved.pt"
    assert open_view(store.url, place).validate() == []
    assert tree(store.url) == before


def facts(view) -> Facts:
    return Facts(None, view.meta.digest(), {"heads": [(0, 2)]})


def fill_view(view) -> None:
    """As ``fill``, with the ledger of the store."""
    group = urls.open_group(neurons.group_url(view.url, LAYER), mode="r+")
    for shard in sorted(view.done_shards()):
        start, stop = view.meta.rows(shard)
        rows = np.arange(start, stop).reshape(-1, 1) + np.arange(24) / 10000
        group["norms"][start:stop] = rows
        known = ledger.read_part(view.data, shard)
        neurons.finish_shard(view.url, LAYER, "norms", shard, known)


def test_places_that_can_be_no_view(store, tmp_path):
    place, other = str(tmp_path / "v"), stores.new_store(str(tmp_path / "other"))
    open_view(store.url, place)
    with refused(StoreError, f"--out {other.url} is a store itself"):
        open_view(store.url, other.url)
    with refused(StoreError, f"--out {store.url} is a store itself"):
        open_view(store.url, store.url)
    with refused(StoreError, f"--out {place} holds what was found of {store.url}"):
        open_view(other.url, place)
    with refused(StoreError, f"{place} holds what was found of {store.url}: give that as the"):
        open_view(place, str(tmp_path / "w"))
    with refused(StoreError, "no store at .*/nowhere"):
        open_view(str(tmp_path / "nowhere"), str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()
    (tmp_path / "file").write_text("")
    with refused(StoreError, "/file is a file: give --out a folder"):
        open_view(store.url, str(tmp_path / "file/v"))


def test_no_shard_is_written_through_a_view(store, tmp_path):
    before, place = tree(store.url), str(tmp_path / "v")
    open_view(store.url, place)
    with refused(StoreError, f"{place} is a view: the store is at {store.url}"):
        stores.fill(open_store(place, mode="r+"), [0])
    assert tree(store.url) == before
    assert tree(place).keys() == {"store.json"}


def test_a_view_whose_store_is_gone_or_another(store, tmp_path):
    place = str(tmp_path / "v")
    open_view(store.url, place)
    Path(store.url).rename(tmp_path / "moved")
    with refused(StoreError, f"{place} holds what was found of the store at {store.url}, and that"):
        open_store(place)
    stores.new_store(store.url, layers=3, weights_digest="other")
    with refused(StoreError, f"{place} holds what was found of another store than"):
        follow(open_store(place))
    (tmp_path / "v/store.json").write_text('{"store": "')
    with refused(StoreError, "v/store.json cannot be read: "):
        open_store(place)


def test_a_view_follows_its_store(store, tmp_path, monkeypatch):
    place = str(tmp_path / "v")
    view = open_view(store.url, place)
    neurons.create(place, view.meta, LAYER, ["norms"], "float32")
    fill_view(view)
    write_reductions(place, view.meta, COUNTED, facts(view))
    counted = State({0, 1, 2}, {"sum": np.zeros(1)})
    neurons.write_state(place, LAYER, "moments", {}, counted, {"sum": ("n",)})
    before = tree(place)
    follow(open_store(place))
    assert tree(place) == before  # nothing has happened

    # A shard is done again, as after a repair.
    urls.remove(ledger.part_url(store.url, 1))
    stores.fill(open_store(store.url, mode="r+"), [1])
    follow(open_store(place))
    assert neurons.done(place, LAYER, "norms") == {0, 2}
    assert find_reductions(place, view.meta, None) is None
    assert neurons.read_state(place, LAYER, "moments", {}).shards == set()

    # A shard is done again while the view follows: it is missed now, and found the next time.
    fill_view(view)
    at = ledger.finished_at

    def done_again(url):
        monkeypatch.setattr(ledger, "finished_at", at)
        times = at(url)
        os.utime(ledger.part_url(url, 1), (max(times.values()) + 1e-3,) * 2)
        return times

    monkeypatch.setattr(ledger, "finished_at", done_again)
    follow(open_store(place))
    assert neurons.done(place, LAYER, "norms") == {0, 1, 2}
    follow(open_store(place))
    assert neurons.done(place, LAYER, "norms") == {0, 2}

    # The store grows: its last shard was short.
    grown = stores.fill(grow(open_store(store.url, mode="r+"), [stores.image_table(4, 10)]), [2, 3])
    view = open_store(place, mode="r+")
    follow(view)
    assert view.meta == grown.meta
    assert neurons.done(place, LAYER, "norms") == {0}
    assert view.neurons(LAYER).sizes["image"] == 14
    fill_view(view)
    assert open_store(place).validate() == []
    shutil.rmtree(place)
    assert open_store(store.url).validate() == []
