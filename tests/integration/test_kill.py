"""Kill -9 of an actor, a decoding worker or the driver: nothing is lost, nothing done twice.

``FACET_KILL_ROUNDS`` sets the number of rounds (``make soak`` does many).
"""

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from storage import open_store
from tests.contents import contents
from tests.processes import ACTOR, DECODER, kill_in_mid_run, wait_for, workers
from tests.tiny import tiny, write_config

ROOT = Path(__file__).resolve().parents[2]
VICTIMS = {"actor": ACTOR, "decoder": DECODER, "driver": ""}
ROUNDS = int(os.environ.get("FACET_KILL_ROUNDS", "3"))
SHARDS = 12


def start(store: Path, model: Path) -> subprocess.Popen:
    command = [
        sys.executable, str(ROOT / "jobs" / "extract.py"), "--store", str(store),
        "--images", f"microworld:n={SHARDS * 100},seed=5,split=test", "--model", str(model),
        "--pretrained", "none", "--shard-size", "100", "--batch-size", "20",
    ]  # fmt: skip
    address = ray.get_runtime_context().gcs_address
    return subprocess.Popen(
        command, env={**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said


def parts(store: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (store / "ledger").glob("part-*.parquet")}


def kill_one(title: str, driver: subprocess.Popen) -> str:
    """``killed`` once one was there to be killed, ``over`` where the run ended first."""
    for worker in workers(title):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
            return "killed"
    return "over" if driver.poll() is not None else ""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    config = tiny({"image_size": 64, "width": 64, "layers": 4}, embed_dim=32)
    return Path(write_config(tmp_path_factory.mktemp("model"), config))


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory, ray_cluster) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("reference") / "s"
    finish(start(store, model))
    assert open_store(str(store)).validate() == []
    return contents(store)


@pytest.mark.cluster
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_killed_run_ends_in_the_same_store(round_, undisturbed, model, tmp_path):
    victim = list(VICTIMS)[round_ % len(VICTIMS)]
    moment = random.Random(round_).randint(1, SHARDS - 4)

    def ready(store: Path) -> bool:
        return len(parts(store)) >= moment

    places = [tmp_path / str(attempt) for attempt in range(3)]
    if victim == "driver":
        store = kill_in_mid_run(lambda place: start(place, model), ready, places)
        kept = parts(store)
        finish(start(store, model))
    else:
        for store in places:  # where a run ends before its victim is seen, the next is tried
            driver = start(store, model)
            wait_for(lambda at=store, run=driver: ready(at) or run.poll() is not None, 240)
            end = wait_for(lambda run=driver: kill_one(VICTIMS[victim], run), pause=0.005)
            if end == "killed":
                break
        assert end == "killed", f"every run ended before a {victim} was found"
        kept = parts(store)
        finish(driver)  # the run itself replaces what died
    after = parts(store)
    assert {name: after[name] for name in kept} == kept, "a finished shard was done again"
    assert contents(store) == undisturbed
