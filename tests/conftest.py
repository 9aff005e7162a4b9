"""Fixtures that every part of the tests may use; which tests start Ray."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before torch is imported anywhere: threads that wait for each other in small products cost a
# machine that does other things, too, many times the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a job asks for two threads all the same, they wait asleep, as they do for `run_job`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Examples are timed by nobody, as machines are busy, and are always the same ones.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")

# Fixtures that start Ray, or machines that do.
RAYS = {"ray_cluster"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray: `make check` goes without it."""
    for item in items:
        if RAYS & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")


@pytest.fixture(autouse=True)
def no_ray_unasked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts Ray without saying so would be counted among the quick ones.

    Nor does it find a cluster that runs on this machine meanwhile: tests beside it start some.
    """
    if not any(request.node.get_closest_marker(mark) for mark in ("ray", "cluster")):
        import ray

        def refuse(*_: object, **__: object) -> None:
            pytest.fail("this test starts Ray: ask for the fixture `ray_cluster`")

        monkeypatch.setattr(ray, "init", refuse)
        monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and published figures beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it holds photographs and published figures")
    return folder


@pytest.fixture(autouse=True)
def on_ray() -> Iterator[None]:
    """Where a job of an earlier test did its work is no matter of this one."""
    from pipeline.cluster import machines

    yield
    machines.work("ray")


@pytest.fixture
def here() -> None:
    """What a test calls is done in its own process, without Ray."""
    from pipeline.cluster import machines

    machines.work("here")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests that only need some cluster."""
    import ray

    from pipeline.cluster import machines

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)  # never one that others work on
        machines.connect()
        yield
        ray.shutdown()
