"""Ray that cannot start or be joined, without starting it: what is said, and what is tried."""

import os
import socket
import threading

import pytest
import ray

from pipeline.cluster import machines
from pipeline.cluster.machines import ClusterError, check_device, diagnose
from storage.errors import FacetError


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch, tmp_path):
    """No Ray in this process, none noted on this machine; what is set is unset again."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    machines.work("ray")


class Starts(list):
    """What ``ray.init`` was given; it raises ``errors``, one a time."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def init(self, address, **options) -> None:
        self.append(address)
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def starts(monkeypatch) -> Starts:
    found = Starts()
    monkeypatch.setattr(ray, "init", found.init)
    return found


SLOW = "The current node timed out during startup. This could happen because some processes failed"


def test_a_busy_machine_is_waited_for_with_words(starts):
    starts.errors = [RuntimeError(SLOW), RuntimeError(SLOW)]
    said: list[str] = []
    machines.connect(said.append)
    assert len(starts) == 3
    assert said.pop(0) == "starting Ray"
    assert [line[-14:] for line in said] == ["attempt 2 of 4", "attempt 3 of 4"]


@pytest.mark.parametrize(
    ("error", "words", "tries"),
    [
        (RuntimeError(SLOW), "did not start on this machine in 4 attempts .*timed out", 4),
        (
            RuntimeError("raylet died"),
            "4 attempts .*raylet died.*stands in .*session_latest/logs",
            4,
        ),
        (PermissionError(13, "Permission denied", "/x/ray"), "set RAY_TMPDIR to a short", 1),
        (OSError(28, "No space left on device"), "is full .*set RAY_TMPDIR", 1),
        (ValueError("object store size (9 GB) exceeds /dev/shm size"), "enlarge it .*shm-size", 1),
    ],
)
def test_what_lasts_ends_in_one_line_with_the_remedy(starts, monkeypatch, error, words, tries):
    starts.errors = [error] * 9
    with pytest.raises(ClusterError, match=words) as caught:
        machines.connect(lambda line: None)
    assert "\n" not in str(caught.value)
    assert len(starts) == tries


def test_a_full_disk_is_told_before_ray_waits_for_it(starts, monkeypatch):
    monkeypatch.setattr(machines, "ROOM_FOR_LOGS", 1 << 62)
    with pytest.raises(ClusterError, match=r"/nowhere is full \(.* free\).*set RAY_TMPDIR"):
        machines.connect()
    assert starts == []


def test_ctrl_c_is_no_failure_of_ray(starts):
    starts.errors = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        machines.connect()


def test_errors_are_told_apart_through_their_causes():
    outer = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    outer.__cause__ = RuntimeError("Version mismatch: The cluster was started with Ray 2.0")
    passing, words = diagnose(outer, "10.0.0.1:6379")
    assert not passing
    assert "install the Ray and the Python" in words
    passing, words = diagnose(RuntimeError(SLOW), "10.0.0.1:6379")
    assert passing
    assert "RAY_ADDRESS=10.0.0.1:6379: start it, correct the address, or unset" in words
    assert "if it asks for a token, set RAY_AUTH_MODE=token" in words


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nonsense", "RAY_ADDRESS=nonsense is no address: write host:port"),
        ("host:port", "is no address"),
        ("no-such-host.invalid:6379", "no Ray cluster can be joined at RAY_ADDRESS=no-such"),
        ("127.0.0.1:0", "no Ray cluster can be joined at RAY_ADDRESS=127.0.0.1"),
    ],
)
def test_an_address_that_names_nothing_is_refused_at_once(starts, monkeypatch, address, words):
    address = address.replace(":0", f":{free_port()}")  # one that no listener has
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=words):
        machines.connect()
    assert starts == []


def test_an_old_session_is_passed_over(starts, monkeypatch, tmp_path):
    """``ray_current_cluster`` outlives a cluster that was killed; Ray asks it for minutes."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(machines, "ROOM_FOR_FOLDER", 1000)
    (tmp_path / "ray").mkdir()
    note = tmp_path / "ray" / "ray_current_cluster"
    note.write_text(f"127.0.0.1:{free_port()}\n")
    said: list[str] = []
    machines.connect(said.append)
    assert starts == ["local"]
    assert str(note) in said[0]
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ClusterError, match="no Ray cluster answers at 127.0.0.1"):
        machines.connect(said.append)
    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("RAY_ADDRESS")
        machines.connect(said.append)
        check_device("cuda")  # it may have nodes with GPUs
    assert starts == ["local", None]


def test_a_folder_too_long_for_sockets_gets_a_short_one(starts, monkeypatch, tmp_path):
    long = tmp_path / ("x" * machines.ROOM_FOR_FOLDER)
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(machines, "SHORT_FOLDERS", ("/no-such-folder", str(tmp_path)))
    said: list[str] = []
    machines.connect(said.append)
    short = tmp_path / f"facet-{os.getuid()}"
    assert os.environ["RAY_TMPDIR"] == str(short)
    assert short.stat().st_mode & 0o077 == 0
    assert "too long for Ray's sockets" in said[0]
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(ClusterError, match="too long for Ray's sockets .*set RAY_TMPDIR"):
        machines.connect(said.append)
    assert len(starts) == 1


def test_the_room_is_what_ray_leaves():
    """A folder of the longest length that is let pass, and a socket as Ray names it."""
    name = "ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store.12"
    assert len(name) + 1 <= 107 - machines.ROOM_FOR_FOLDER or os.uname().sysname == "Darwin"


def test_slow_starts_are_said(starts, monkeypatch):
    monkeypatch.setattr(machines, "SECONDS_BEFORE_SAYING", 0.0)
    heard = threading.Event()
    monkeypatch.setattr(ray, "init", lambda address, **options: heard.wait(30))
    machines.connect(lambda line: heard.set() if "starting" in line else None)
    assert heard.is_set()


def test_little_work_is_done_here_and_much_on_ray(starts):
    said: list[str] = []
    machines.work("auto")
    assert machines.here()
    machines.settle(0.2, "3 files to list", said.append, more=True)
    for _ in range(2):
        machines.settle(machines.SECONDS_HERE, "2 shards", said.append)
    assert said == ["works in this process: 2 shards, about 60 s"]
    assert machines.here()
    assert not starts
    machines.settle(machines.SECONDS_HERE * 60, "99 shards", said.append)
    assert said[1:] == ["starts Ray: 99 shards, about an hour for one process", "starting Ray"]
    assert not machines.here()
    assert starts == [None]
    machines.work("here")
    machines.settle(machines.SECONDS_HERE * 60, "99 shards", said.append)
    assert len(said) == 3
    assert len(starts) == 1


def test_a_cluster_at_hand_is_used_for_little_work_too(starts, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(machines, "ROOM_FOR_FOLDER", 1000)
    (tmp_path / "ray").mkdir()
    note = tmp_path / "ray" / "ray_current_cluster"
    note.write_text(f"127.0.0.1:{free_port()}\n")
    machines.work("auto")
    assert machines.here()  # nobody answers
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        note.write_text(address)
        machines.work("auto")
        machines.settle(0.2, "2 shards", said.append)
    assert said == [f"joining the Ray cluster at {address}"]
    assert not machines.here()
    monkeypatch.setenv("RAY_ADDRESS", address)
    machines.work("auto")
    assert not machines.here()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    note.unlink()
    machines.work("auto")
    assert machines.here()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    machines.work("auto")
    assert not machines.here()


def test_a_gpu_is_asked_for_where_one_is_or_may_come(monkeypatch):
    for device in ("cpu", "auto"):
        check_device(device)
    with pytest.raises(FacetError, match="`device` cuda: this machine has no GPU"):
        check_device("cuda")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(FacetError, match="no GPU"):
        check_device("cuda")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_device("cuda")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check_device("cuda")
