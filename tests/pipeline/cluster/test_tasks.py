"""Tasks in the test's own process."""

import pytest
import ray
from ray.exceptions import LocalRayletDiedError

from pipeline.cluster import machines
from pipeline.cluster.tasks import SCANNED_PER_CPU, Tasks, scan


def held(first: int, item: int) -> list[int]:
    return [first + item]


def test_states_that_this_process_holds_at_once_do_not_grow_with_its_cpus(here, monkeypatch):
    monkeypatch.setattr(machines.psutil, "cpu_count", lambda: 64)
    most = 0

    def joined(states: list[list[int]]) -> list[int]:
        nonlocal most
        most = max(most, sum(map(len, states)))
        return [n for state in states for n in state]

    waves = list(scan(held, range(50), joined, 7))
    assert [count for count, _ in waves] == [8, 16, 24, 32, 40, 48, 50]
    assert most == SCANNED_PER_CPU
    assert [n for _, state in waves for n in state] == list(range(7, 57))


def test_ray_that_dies_under_a_job_ends_it_in_one_line(monkeypatch):
    def get(ref):
        raise LocalRayletDiedError

    monkeypatch.setattr(ray, "get", get)
    machines.work("ray")
    with pytest.raises(machines.ClusterError, match="Ray ended .*the same command goes on") as one:
        Tasks().result(None)
    assert "\n" not in str(one.value)
