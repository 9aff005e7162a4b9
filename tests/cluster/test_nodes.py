"""Several Ray nodes, one of which is killed in mid-run: nothing is lost, nothing done twice."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from storage import open_store
from tests.contents import contents
from tests.processes import wait_for
from tests.tiny import tiny, write_config

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 12


@pytest.fixture
def model(tmp_path) -> Path:
    config = tiny({"image_size": 64, "width": 64, "layers": 4}, embed_dim=32)
    return Path(write_config(tmp_path, config))


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """Three nodes of one CPU each; drivers join the first."""
    size = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(**size)
    yield cluster
    cluster.shutdown()


def start(cluster: Cluster, store: Path, model: Path) -> subprocess.Popen:
    command = [
        sys.executable, ROOT / "jobs" / "extract.py", "--store", store,
        "--images", f"microworld:n={SHARDS * 50},seed=5,split=test", "--model", model,
        "--pretrained", "none", "--shard-size", "50", "--batch-size", "10", "--num-actors", "3",
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said
    return said


def parts(store: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (store / "ledger").glob("part-*.parquet")}


def node_with_an_actor(cluster: Cluster) -> object | None:
    for node in cluster.worker_nodes:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in raylet.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end while it is looked at
                if " ".join(process.cmdline()).startswith("ray::_Actor"):
                    return node
    return None


@pytest.mark.cluster
def test_a_run_survives_a_killed_node(nodes, model, tmp_path):
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "s"
    finish(start(nodes, undisturbed, model))
    assert open_store(str(undisturbed)).validate() == []
    driver = start(nodes, store, model)

    def far() -> object | None:
        found = node_with_an_actor(nodes) if len(parts(store)) >= 2 else None
        return found or (driver.poll() is not None and "the run was over")

    node = wait_for(far, 240)
    assert not isinstance(node, str), "no actor was on another node than the driver's"
    nodes.remove_node(node, allow_graceful=False)
    kept = parts(store)
    assert len(kept) < SHARDS, "the run was over before the node was killed"
    finish(driver)
    after = parts(store)
    assert {name: after[name] for name in kept} == kept, "a finished shard was done again"
    assert open_store(str(store)).validate() == []
    assert contents(store) == contents(undisturbed)
