"""The index as a command: what it holds, what is told, and a build that is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs import index, status
from jobs.index import IndexConfig
from jobs.status import StatusConfig
from pipeline.search import build
from pipeline.search.scan import Queries, nearest
from storage import head_index, open_store
from storage.errors import FacetError
from storage.layout import ROWS_PER_INDEX_CHUNK
from tests import s3_kit
from tests.processes import kill_in_mid_run
from tests.storage import stores

ROOT = Path(__file__).resolve().parents[2]
HERE = {"workers": "here"}
HEADS = [f"heads/{layer}.{head}" for layer in (0, 1) for head in (0, 1, 2)]


@pytest.fixture
def store(tmp_path):
    return stores.fill(stores.new_store(str(tmp_path / "s")))


def test_parts_are_those_that_are_asked_for(store, capsys):
    index.main(IndexConfig(store.url, layers="1", **HERE))
    assert head_index.kept_parts(store.url) == HEADS[3:]
    said = capsys.readouterr().out
    assert "indexing 3 parts of 3 shards: up to 144 Bytes to write" in said
    index.main(IndexConfig(store.url, layers="all", blocks="0,2", embedding=True, **HERE))
    parts = ["blocks/0", "blocks/2", "embedding", *HEADS]
    assert head_index.kept_parts(store.url) == parts
    capsys.readouterr()
    index.main(IndexConfig(store.url, layers="all", blocks="0,2", embedding=True, **HERE))
    assert "all is done" in capsys.readouterr().out
    for wrong, words in (
        ({"layers": "2"}, "`layers` 2: the model's layers are 0-1"),
        ({"blocks": "3"}, "`blocks` 3: the model's blocks are 0-2"),
    ):
        with pytest.raises(FacetError, match=words):
            index.main(IndexConfig(store.url, **{"layers": "all", **wrong}))


def test_status_and_validate_know_the_index(store, capsys):
    index.main(IndexConfig(store.url, layers="all", embedding=True, **HERE))
    found = status.main(StatusConfig(store.url))
    assert found.index == [{"part": part, "shards_done": 3} for part in ["embedding", *HEADS]]
    assert "heads of layer 1 3 parts, 3 of 3 shards" in said_by(capsys, store)
    assert store.validate() == []
    head_index.forget_shards(store.url, store.meta, {1})
    assert "embedding 1 part, 2 of 3 shards" in said_by(capsys, store)
    lacks = "lacks 1 of 3 finished shards"
    assert store.validate() == [f"index.zarr/{part}: {lacks}" for part in ["embedding", *HEADS]]
    index.main(IndexConfig(store.url, layers="all", embedding=True, **HERE))
    place = Path(store.url) / "index.zarr"
    (place / "heads/0.1/c/0/0").unlink()
    array = head_index.open_array(store.url, "heads/1.0", "r+")
    array[2] = np.nan
    record = place / "heads/1.1/zarr.json"
    record.write_text(record.read_text().replace(store.meta.digest(), "0" * 16))
    (place / "heads/1.2/zarr.json").write_text("{")
    lost, gone, other, damaged = store.validate()
    assert lost.startswith("index.zarr: heads/0.1 has no values for images [0, 1, 2, 3, 4] (10 in")
    assert gone == "index.zarr: heads/1.0 has no values for images [2] (1 in all)"
    assert other.startswith("index.zarr/heads/1.1: of another store than this one")
    assert "index.zarr/heads/1.2 is damaged" in damaged
    assert {p["part"]: p["shards_done"] for p in status.main(StatusConfig(store.url)).index} == {
        "embedding": 3, **dict.fromkeys(HEADS, 3), "heads/1.1": 0, "heads/1.2": 0,
    }  # fmt: skip


def test_an_index_on_s3_is_that_on_a_disk(tmp_path, capsys):
    """Made, forgotten in part, made good and searched, object by object."""
    small = {"images": 5, "components": ("heads",), "token_layers": ()}
    near = stores.fill(stores.new_store(str(tmp_path / "s"), **small))
    space = index.main(IndexConfig(near.url, layers="1", **HERE))
    queries = Queries(np.ones((2, 6), np.float32), np.array([True, False]))
    with s3_kit.serve() as endpoint, s3_kit.used(endpoint) as bucket:
        far = stores.fill(stores.new_store(f"{bucket}/s", **small))
        index.main(IndexConfig(far.url, layers="1", **HERE))
        head_index.forget_shards(far.url, far.meta, {1})
        assert "heads of layer 1 3 parts, 1 of 2 shards" in said_by(capsys, far)
        with pytest.raises(FacetError, match="lacks 1 of 2 finished shards"):
            nearest(far, space, queries, metric="dot", top=4)
        index.main(IndexConfig(far.url, layers="1", **HERE))
        assert far.validate() == []
        for part in space.parts:
            one, other = (head_index.open_array(s.url, part)[:] for s in (near, far))
            np.testing.assert_array_equal(one, other)
        found, same = (nearest(s, space, queries, metric="dot", top=4) for s in (far, near))
    np.testing.assert_array_equal(found.rows_qk, same.rows_qk)
    np.testing.assert_array_equal(found.scores_qk, same.scores_qk)


def said_by(capsys, store) -> str:
    """What status prints, its spaces put together."""
    capsys.readouterr()
    status.main(StatusConfig(store.url))
    return " ".join(capsys.readouterr().out.split())


# A shard a chunk, noted as soon as it is there, and some time between them.
SLOW = """
import sys, time
from jobs import cli
from pipeline.search import build
from storage import layout
layout.ROWS_PER_INDEX_CHUNK, build.SECONDS_BETWEEN_NOTES = 1, -1.0
done = build.index_run
build.index_run = lambda work, shards: (time.sleep(0.3), done(work, shards))[1]
sys.argv = ["facet", *sys.argv[1:]]
cli.main()
"""


def test_a_killed_build_goes_on_where_it_was(tmp_path, monkeypatch):
    stores.fill(stores.new_store(str(tmp_path / "s"), images=80))

    def start(place: Path) -> subprocess.Popen:
        line = ["index", "--store", str(tmp_path / "s"), "--layers", "all", "--workers", "here"]
        return subprocess.Popen(
            [sys.executable, "-c", SLOW, *line, "--out", str(place)], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def counted(place: Path) -> set[int]:
        record = place / "index.zarr/heads/1.2/zarr.json"
        said = json.loads(record.read_text())["attributes"] if record.exists() else None
        return {s for a, b in said["facet"]["shards"] for s in range(a, b + 1)} if said else set()

    place = kill_in_mid_run(
        start, lambda place: len(counted(place)) > 1, [tmp_path / str(n) for n in range(3)]
    )
    kept = counted(place)
    taken, done = [], build.index_run

    def noting(work, shards):
        taken.extend(shards)
        return done(work, shards)

    monkeypatch.setattr(build, "index_run", noting)
    monkeypatch.setattr("storage.layout.ROWS_PER_INDEX_CHUNK", 1)
    index.main(IndexConfig(str(place), layers="all", **HERE))
    assert set(range(20)) - set(taken) == kept, "a shard that was noted was read again"
    index.main(IndexConfig(str(tmp_path / "s"), layers="all", **HERE))
    for part in HEADS:
        one, other = (
            np.asarray(head_index.open_array(str(at), part)[:]) for at in (place, tmp_path / "s")
        )
        np.testing.assert_array_equal(one, other)


def test_what_a_cluster_makes_and_finds_is_what_one_process_does(tmp_path, ray_cluster):
    """Tasks build runs of shards and scan them; states meet on their way."""
    url = str(tmp_path / "s")
    stores.fill(stores.new_store(url, images=ROWS_PER_INDEX_CHUNK + 900, shard_size=4096))
    space = index.main(IndexConfig(url, layers="1", workers="ray"))
    store, rng = open_store(url), np.random.default_rng(0)
    vectors = rng.standard_normal((3, 6), np.float32)
    queries = Queries(vectors, np.array([True, False, False]))
    on_ray = nearest(store, space, queries, metric="dot", top=9)
    index.main(IndexConfig(url, layers="1", out=str(tmp_path / "v"), **HERE))
    for part in HEADS[3:]:
        one, other = (head_index.open_array(at, part)[:] for at in (url, str(tmp_path / "v")))
        np.testing.assert_array_equal(one, other)
    found = nearest(open_store(str(tmp_path / "v")), space, queries, metric="dot", top=9)
    np.testing.assert_array_equal(found.rows_qk, on_ray.rows_qk)
