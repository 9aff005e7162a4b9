"""The crew on a real Ray, with actors that die, that cannot start, that find no room."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from pipeline.cluster import crew
from pipeline.cluster.crew import Crew, Needs
from storage.errors import FacetError

SMALL = Needs(0.5, 0, 50_000_000)


class Worker:
    """Reports its shards; dies in the middle of those that ``deaths`` still has a file for."""

    def __init__(self, deaths: Path) -> None:
        self.deaths, self.done = deaths, 0

    def ready(self) -> None:
        pass

    def extract(self, shard: int) -> tuple[int, int]:
        for file in sorted(self.deaths.glob(f"{shard}-*")):
            file.unlink()
            os._exit(1)
        self.done += 10
        return shard, os.getpid()

    def progress(self) -> int:
        return self.done


class Unimportable(Worker):
    def __init__(self, deaths: Path) -> None:
        raise ModuleNotFoundError("No module named 'pipeline'")


def extract(actor, shard):
    return actor.extract.remote(shard)


def new_crew(
    deaths: Path, *, kind=Worker, size=2, needs=SMALL, recover=None, said=None, hand_out=extract
) -> Crew:
    def hire(options):
        return ray.remote(kind).options(max_concurrency=2, **options).remote(deaths)

    return Crew(
        hire, hand_out, recover or (lambda shard: None),
        size=size, slots=2, needs=needs, say=(said if said is not None else []).append,
    )  # fmt: skip


def work(one: Crew, shards: int) -> tuple[list, list[int]]:
    """The reports, and the counts of images, in the order they came."""
    came = list(one.work(range(shards), lambda shard: 10))
    return [c for c in came if isinstance(c, tuple)], [c for c in came if isinstance(c, int)]


def test_what_dead_actors_had_in_hand_is_done_by_others(ray_cluster, tmp_path):
    for name in ("1-a", "4-a", "4-b"):
        (tmp_path / name).touch()
    reports, counts = work(new_crew(tmp_path), 6)
    assert sorted(shard for shard, _ in reports) == list(range(6))
    assert not list(tmp_path.iterdir())
    assert max(counts) <= 60


def test_a_shard_that_its_actor_had_finished_is_not_done_again(ray_cluster, tmp_path):
    (tmp_path / "1-a").touch()
    reports, _ = work(new_crew(tmp_path, recover=lambda s: (s, 0) if s == 1 else None), 3)
    assert [pid for shard, pid in reports if shard == 1] == [0]


def test_work_that_kills_every_actor_ends_the_run(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "RETRIES", 1)
    for name in "abc":
        (tmp_path / f"0-{name}").touch()
    with pytest.raises(FacetError, match=r"died 2 times over on the same work(.|\n)*out of memory"):
        work(new_crew(tmp_path, size=1), 2)


def test_actors_that_cannot_start_say_why(ray_cluster, tmp_path):
    with pytest.raises(FacetError, match=r"cannot start(.|\n)*No module named 'pipeline'") as error:
        work(new_crew(tmp_path, kind=Unimportable), 2)
    assert "out of memory" not in str(error.value)


def test_it_waits_for_what_the_cluster_lacks_and_not_for_ever(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "SECONDS_BEFORE_SAYING", 0.5)
    monkeypatch.setattr(crew, "SECONDS_TO_WAIT", 2.0)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # a cluster that may grow
    said: list[str] = []
    with pytest.raises(FacetError, match="no worker could start .* 1 GPU .* 0 GPU"):
        work(new_crew(tmp_path, needs=Needs(0.5, 1, 10**8), said=said), 2)
    assert len(said) == 1
    assert "0 of 2 workers run" in said[0]
    assert "0.5 CPU, 1 GPU and 100.0 MB of memory" in said[0]


def test_a_gpu_that_cannot_come_is_not_waited_for(ray_cluster, tmp_path):
    with pytest.raises(FacetError, match="`device` cuda: this machine has no GPU"):
        work(new_crew(tmp_path, needs=Needs(0.5, 1, 10**8)), 2)


def test_actors_leave_a_cpu_to_decode_with(ray_cluster, tmp_path):
    cpus = ray.cluster_resources()["CPU"]
    one = new_crew(tmp_path, size=100)
    most = 0
    for _ in one.work(range(30), lambda shard: 10):
        most = max(most, len(one._members))
    assert 1 <= most <= 2 * cpus - 1


class Reader(Worker):
    """Waits for pictures, as the actors that own models do."""

    def read(self, shard: int, pictures: list) -> tuple[int, int]:
        self.done += 10
        return ray.get(pictures[0]), os.getpid()


def decode(shard: int) -> int:
    time.sleep(0.2)
    return shard


def test_two_jobs_at_once_do_not_lock_each_other_out(ray_cluster, tmp_path):
    """With half a CPU for an actor, two crews as large as the cluster left none to decode with."""
    needs = Needs(crew.ACTOR_CPUS, 0, 10_000_000)
    task = ray.remote(decode).options(num_cpus=crew.DECODE_CPUS)

    def run(_: int) -> list:
        one = new_crew(
            tmp_path, kind=Reader, size=int(ray.cluster_resources()["CPU"]), needs=needs,
            hand_out=lambda actor, shard: actor.read.remote(shard, [task.remote(shard)]),
        )  # fmt: skip
        return work(one, 20)[0]

    with ThreadPoolExecutor(2) as pool:
        for reports in pool.map(run, range(2), timeout=150):
            assert sorted(shard for shard, _ in reports) == list(range(20))
