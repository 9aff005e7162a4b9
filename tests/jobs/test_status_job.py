"""What a store tells of itself, from ledgers and folders that are really there."""

import json
import os
import re
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

from jobs import status as job
from jobs.recipes import status as recipe
from jobs.status import StatusConfig
from pipeline.images.bad import BadImages
from pipeline.status import SECONDS_QUIET, extraction
from storage import ledger, urls
from storage.errors import StoreError
from storage.results import result_url, save_result
from storage.rosetta import Setup, write_setup
from tests.storage import stores


@pytest.fixture
def store(tmp_path):
    """Ten images in shards of four; the first two shards are done, with two bad images."""
    store = stores.new_store(str(tmp_path / "s"))
    for shard, bad in ((0, {}), (1, {4: "empty", 6: "cut: at byte 9"})):
        rows = stores.values(store, shard)
        for name in store.arrays:
            for image in bad:
                rows[name][image - 4] = "" if rows[name].dtype.kind == "O" else np.nan
        facts = {
            **BadImages.of(map(str, bad), bad.values()).facts(),
            "residual": {"sum": 1e-6, "max": 1e-7 * (shard + 1)},
            "rounding": {"sum": 1e-3, "max": 1e-4},
        }
        store.write_shard(shard, rows, stores.ledger_rows(store, shard, bad), facts)
    return store


NOW = 1e9  # a moment, in seconds since 1970


@pytest.fixture
def worked(tmp_path, monkeypatch):
    """A store of shards of four images, each worked on from one moment to another."""

    def make(*spans: tuple[float, float], images: int = 40):
        store = stores.new_store(str(tmp_path / "worked"), images=images)
        for shard, (began, ended) in enumerate(spans):
            with monkeypatch.context() as patch:
                patch.setattr(ledger.time, "time", lambda ended=ended: NOW + ended)
                rows = stores.ledger_rows(store, shard)
                store.write_shard(shard, stores.values(store, shard), rows, {}, NOW + began)
        return store

    return make


def told(store, now: float):
    return extraction(store.url, store.meta, NOW + now)


def test_what_is_done_and_what_failed(store):
    found = job.main(StatusConfig(store=store.url)).extraction
    assert (found.shards, found.shards_done, found.images) == (3, 2, 10)
    assert (found.images_ok, found.images_bad, found.bad) == (6, 2, {"cut": 1, "empty": 1})
    assert (found.residual, found.rounding) == (2e-7, 1e-4)
    assert found.bad_named == {"empty": ["4"], "cut": ["6: at byte 9"]}
    assert recipe.extraction_rows(found)["  bad: cut"] == "1 (6: at byte 9)"


def test_running_stopped_and_the_time_left(worked):
    store = worked((0, 10), (10, 20))
    running = told(store, 30)
    assert (running.state, running.images_per_second) == ("running", pytest.approx(0.4))
    assert running.seconds_left == pytest.approx(32 / 0.4)
    later = told(store, 20 + SECONDS_QUIET + 1)
    assert (later.state, later.seconds_left) == ("stopped", None)
    assert later.images_per_second == pytest.approx(0.4)


def test_where_a_shard_takes_an_hour_an_hours_silence_means_nothing(worked):
    store = worked((0, 3600))
    assert told(store, 2 * 3600).state == "running"
    assert told(store, 5 * 3600).state == "stopped"


def test_the_rate_is_over_the_time_that_work_went_on(worked):
    # Two workers whose shards end at almost the same time.
    assert told(worked((0, 10), (0, 10.01)), 11).images_per_second == pytest.approx(0.8, rel=0.01)


def test_a_stop_is_not_in_the_rate(worked):
    night = 12 * 3600
    store = worked((0, 100), (100, 200), (night, night + 2), (night + 12, night + 14))
    # What was done before the night was another run; ten seconds after it, nothing was under way.
    assert told(store, night + 15).images_per_second == pytest.approx(2)


def test_a_copied_store_says_nothing_new(worked, tmp_path):
    store = worked((0, 10), (10, 20))
    shutil.copytree(store.url, tmp_path / "copy", copy_function=shutil.copyfile)
    week = 7 * 24 * 3600
    copy = extraction(str(tmp_path / "copy"), store.meta, NOW + week)
    assert copy == told(store, week)
    assert (copy.state, copy.last_shard) == ("stopped", "2001-09-09T01:47:00+00:00")


def test_finished_is_said_at_once(worked):
    assert told(worked((0, 10), (10, 20), images=8), 21).state == "finished"


def test_nothing_is_said_of_what_is_not_known(store):
    found = extraction(store.url, store.meta, time.time())  # as it was before times were kept
    assert found.state == "unfinished"
    assert (found.images_per_second, found.last_shard, found.seconds_left) == (None, None, None)
    rows = recipe.extraction_rows(found)
    assert not {"rate", "last shard", "time left"} & rows.keys()


def test_nothing_done_and_all_done(tmp_path):
    store = stores.new_store(str(tmp_path / "s"))
    found = extraction(store.url, store.meta, time.time())
    assert (found.state, found.last_shard, found.images_ok) == ("not started", None, 0)
    stores.fill(store)
    found = extraction(store.url, store.meta, time.time())
    assert (found.state, found.seconds_left, found.images_ok) == ("finished", None, 10)


def test_results_finished_and_not(store, capsys):
    texts = {"texts": pa.table({"text": ["a"]})}
    save_result(store.url, "encode_texts", {"pool": "a"}, {}, tables=texts)
    early = result_url(store.url, "extract", {"images": "x"})
    for name in ("config", "provenance"):
        urls.put_bytes(urls.join(early, f"{name}.json"), b"{}")
    left = result_url(store.url, "textspan", {"pool": "b"})
    os.makedirs(left)
    job.main(StatusConfig(store=store.url, format="json"))
    found = json.loads(capsys.readouterr().out)
    assert [r["job"] for r in found["results"]] == ["extract", "encode_texts"]
    assert found["results"][1]["finished"]
    assert found["unfinished"] == [{"what": "textspan", "url": left}]
    assert found["extraction"]["shards_done"] == 2
    job.main(StatusConfig(store=store.url))
    said = capsys.readouterr().out
    # What an early version finished has no date.
    assert re.search(r"extract/\w+ +finished", said)
    assert "started" not in said


def test_inversions_beside_shared_units_and_at_a_place_of_their_own(tmp_path, capsys):
    shared, own = str(tmp_path / "shared"), str(tmp_path / "own")
    write_setup(shared, Setup("digest", 24, 8, 8, source="microworld:n=24"))
    for place in (shared, own):
        save_result(place, "invert", {"steps": 5}, {})
        found = job.main(StatusConfig(store=place))
        assert [r["job"] for r in found.results] == ["invert"]
        assert found.extraction is None
        assert "invert/" in capsys.readouterr().out
    with pytest.raises(StoreError, match="no store at"):
        job.main(StatusConfig(store=str(tmp_path)))


def test_reductions_and_their_counts(store, here):
    from pipeline.stats.reductions import reduce_store

    reduce_store(store, "label == 'class-0'", ["embedding"])
    (found,) = job.main(StatusConfig(store=store.url)).reductions
    assert found["where"] == "label == 'class-0'"
    # Images 0, 3 and 6 of the first eight; 6 is bad.
    assert found["counts"] == {"embedding": 2}
    assert found["shards"] == {"embedding": 2}


def test_facts_longer_than_a_tail_and_damaged_parts(store):
    reasons = {f"{'x' * 100} {i}": 1 for i in range(1000)}
    ledger.write_part(store.url, 1, stores.ledger_rows(store, 1), {"bad": reasons})
    assert next(iter(ledger.read_facts(store.url, [1, 0]))) == {"bad": reasons}
    with open(ledger.part_url(store.url, 0), "wb") as file:
        file.write(b"not a part")
    with pytest.raises(StoreError, match=r"part-00000000.parquet is damaged.*Delete it"):
        list(ledger.read_facts(store.url, [0]))


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        job.main(StatusConfig(store=str(tmp_path / "nowhere")))
