"""The crew on a real Ray, with actors that die, that cannot start, that find no room."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from pipeline.cluster import crew, machines
from pipeline.cluster.crew import Crew
from pipeline.cluster.loop import over_shards
from pipeline.cluster.work import WORKER_CPUS, Needs, Report, Work
from storage.errors import FacetError

SMALL = Needs(0.5, 0, 50_000_000)


class Worker:
    """Reports its shards; dies in the middle of those that ``deaths`` still has a file for."""

    def __init__(self, deaths: Path) -> None:
        self.deaths, self.done = deaths, 0

    def do(self, shard: int, pictures) -> Report[int]:
        for file in sorted(self.deaths.glob(f"{shard}-*")):
            file.unlink()
            os._exit(1)
        assert list(pictures) in ([], [shard])
        self.done += 10
        return Report(shard, 10, value=os.getpid())

    def progress(self) -> int:
        return self.done


@dataclass(frozen=True)
class Shards(Work[int, int]):
    deaths: Path
    needs: Needs = SMALL
    finished: tuple[int, ...] = ()
    decodes: bool = False

    def start(self) -> Worker:
        return Worker(self.deaths)

    def ahead(self, shard: int) -> list:
        return [(decode, shard)] if self.decodes else []

    def shard(self, shard: int) -> int:
        return shard

    def images(self, shard: int) -> int:
        return 10

    def recover(self, shard: int) -> Report[int] | None:
        return Report(shard, 10, value=0) if shard in self.finished else None


def decode(shard: int) -> int:
    time.sleep(0.2)
    return shard


class Unimportable(crew._Actor):
    def __init__(self, job: str) -> None:
        raise ModuleNotFoundError("No module named 'pipeline'")


def work(todo: Shards, shards: int, *, size=2, said=None) -> tuple[list[Report], list[int]]:
    """The reports, and the counts of images, in the order they came."""
    say = (said if said is not None else []).append
    came = list(Crew(todo, size, say).work(range(shards)))
    return [c[1] for c in came if isinstance(c, tuple)], [c for c in came if isinstance(c, int)]


def test_what_dead_actors_had_in_hand_is_done_by_others(ray_cluster, tmp_path):
    for name in ("1-a", "4-a", "4-b"):
        (tmp_path / name).touch()
    reports, counts = work(Shards(tmp_path), 6)
    assert sorted(report.shard for report in reports) == list(range(6))
    assert not list(tmp_path.iterdir())
    assert max(counts) <= 60


def test_a_shard_that_its_actor_had_finished_is_not_done_again(ray_cluster, tmp_path):
    (tmp_path / "1-a").touch()
    reports, _ = work(Shards(tmp_path, finished=(1,)), 3)
    assert [report.value for report in reports if report.shard == 1] == [0]


def test_work_that_kills_every_actor_ends_the_run(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "RETRIES", 1)
    for name in "abc":
        (tmp_path / f"0-{name}").touch()
    with pytest.raises(FacetError, match=r"died 2 times over on the same work(.|\n)*out of memory"):
        work(Shards(tmp_path), 2, size=1)


def test_actors_that_cannot_start_say_why(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "_Actor", Unimportable)
    with pytest.raises(FacetError, match=r"cannot start(.|\n)*No module named 'pipeline'") as error:
        work(Shards(tmp_path), 2)
    assert "out of memory" not in str(error.value)


def test_it_waits_for_what_the_cluster_lacks_and_not_for_ever(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "SECONDS_BEFORE_SAYING", 0.5)
    monkeypatch.setattr(crew, "SECONDS_TO_WAIT", 2.0)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # a cluster that may grow
    said: list[str] = []
    with pytest.raises(FacetError, match="no worker could start .* 1 GPU .* 0 GPU"):
        work(Shards(tmp_path, Needs(0.5, 1, 10**8)), 2, said=said)
    assert len(said) == 1
    assert "0 of 2 workers run" in said[0]
    assert "0.5 CPU, 1 GPU and 100.0 MB of memory" in said[0]


def test_a_gpu_that_cannot_come_is_not_waited_for(ray_cluster, tmp_path):
    todo = Shards(tmp_path, Needs(0.5, 1, 10**8))
    with (
        pytest.raises(FacetError, match="`device` cuda: this machine has no GPU"),
        over_shards(todo, [0, 1], 2) as finished,
    ):
        list(finished)


def test_actors_leave_a_cpu_to_decode_with(ray_cluster, tmp_path):
    cpus = ray.cluster_resources()["CPU"]
    one = Crew(Shards(tmp_path), 100, print)
    most = 0
    for _ in one.work(range(30)):
        most = max(most, len(one._members))
    assert 1 <= most <= 2 * cpus - 1


class Patient:
    """A worker whose first item waits until so many items were decoded, or a while."""

    def __init__(self, place: Path, wanted: int) -> None:
        self.place, self.wanted, self.done = place, wanted, 0

    def do(self, shard: int, pictures) -> Report[int]:
        list(pictures)
        until = time.monotonic() + (20 if self.wanted else 2)
        while not self.done and time.monotonic() < until:
            if self.wanted and len(list(self.place.iterdir())) >= self.wanted:
                break
            time.sleep(0.05)
        self.done += 10
        return Report(shard, 10, value=len(list(self.place.iterdir())))

    def progress(self) -> int:
        return self.done


@dataclass(frozen=True)
class Watched(Shards):
    wanted: int = 0
    size: int = 0

    @property
    def in_hand(self) -> int:
        return 1

    def start(self) -> Patient:
        return Patient(self.deaths, self.wanted)

    def ahead(self, shard: int) -> list:
        return [(leave, self.deaths, f"{shard}-{part}") for part in range(2)]

    def decoded_bytes(self, shard: int) -> int:
        return self.size


def leave(place: Path, name: str) -> str:
    (place / name).touch()
    return name


def test_pictures_are_decoded_ahead_as_many_as_run_at_once(ray_cluster, tmp_path):
    # One item of two tasks is in hand; of the queue as many more tasks as the cluster runs.
    ahead = int(ray.cluster_resources()["CPU"] / crew.DECODE_CPUS)
    reports, _ = work(Watched(tmp_path, wanted=2 + ahead), 40, size=1)
    assert 2 + ahead <= reports[0].value <= 2 + ahead + 1
    assert sorted(report.shard for report in reports) == list(range(40))
    assert len(list(tmp_path.iterdir())) == 80


def test_pictures_are_not_decoded_ahead_beyond_memory(ray_cluster, tmp_path):
    most = crew.PICTURES * machines.shared_memory()
    # One item in hand and one more fit.
    reports, _ = work(Watched(tmp_path, size=int(most / 2.5)), 6, size=1)
    assert reports[0].value == 4
    assert sorted(report.shard for report in reports) == list(range(6))


def test_two_jobs_at_once_do_not_lock_each_other_out(ray_cluster, tmp_path):
    """With half a CPU for an actor, two crews as large as the cluster left none to decode with."""
    todo = Shards(tmp_path, Needs(WORKER_CPUS, 0, 10_000_000), decodes=True)

    def run(_: int) -> list[Report]:
        return work(todo, 20, size=int(ray.cluster_resources()["CPU"]))[0]

    with ThreadPoolExecutor(2) as pool:
        for reports in pool.map(run, range(2), timeout=150):
            assert sorted(report.shard for report in reports) == list(range(20))


@pytest.mark.parametrize("where", ["ray", "here"])
def test_reports_in_the_order_of_the_shards_and_images_that_are_counted(
    where, ray_cluster, tmp_path
):
    machines.work(where)
    todo, counts = Shards(tmp_path, decodes=True), list[int]()
    with over_shards(
        todo, [3, 1, 2, 0], 2, in_order=True, report=counts.append, say=lambda line: None
    ) as finished:
        reports = list(finished)
    assert [report.shard for report in reports] == [3, 1, 2, 0]
    assert counts == sorted(counts)
    assert counts[-1] == 40
    assert ({report.value for report in reports} == {os.getpid()}) == (where == "here")
