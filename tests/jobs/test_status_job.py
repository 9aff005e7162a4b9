"""What a store tells of itself, from ledgers and folders that are really there."""

import json
import os
import re
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


def at(store, shard: int, seconds: float) -> None:
    """Let a shard have been finished at a moment."""
    os.utime(ledger.part_url(store.url, shard), (seconds, seconds))


def test_what_is_done_and_what_failed(store):
    found = job.main(StatusConfig(store=store.url)).extraction
    assert (found.shards, found.shards_done, found.images) == (3, 2, 10)
    assert (found.images_ok, found.images_bad, found.bad) == (6, 2, {"cut": 1, "empty": 1})
    assert (found.residual, found.rounding) == (2e-7, 1e-4)
    assert found.bad_named == {"empty": ["4"], "cut": ["6: at byte 9"]}
    assert recipe.extraction_rows(found)["  bad: cut"] == "1 (6: at byte 9)"


def test_running_stopped_and_the_time_left(store):
    now = time.time()
    at(store, 0, now - 20)
    at(store, 1, now - 10)
    running = extraction(store.url, store.meta, now)
    assert running.state == "running"
    assert running.images_per_second == pytest.approx(4 / 10, rel=1e-3)
    assert running.seconds_left == pytest.approx(2 / 0.4, rel=1e-3)
    later = extraction(store.url, store.meta, now + SECONDS_QUIET)
    assert (later.state, later.seconds_left) == ("stopped", None)
    # Where a shard takes an hour, an hour's silence means nothing.
    at(store, 0, now - 3600)
    assert extraction(store.url, store.meta, now + 3600).state == "running"


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
    job.main(StatusConfig(store=store.url, json=True))
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
