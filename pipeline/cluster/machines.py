"""Joining a Ray cluster, or starting one on this machine; or doing without, in this process."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil

from storage.errors import FacetError

# Ray gives a node 30 seconds to start; a busy machine with cold disks can need a second try.
ATTEMPTS = 4
SECONDS_BEFORE_SAYING = 10.0
SECONDS_TO_ANSWER = 10.0
# A socket's path has 107 bytes (103 on macOS), of which Ray's own folders and names take the end:
# /ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.12
ROOM_FOR_FOLDER = (103 if os.uname().sysname == "Darwin" else 107) - 71
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


Where = Literal["ray", "here"]
_where: Where = "ray"


class ClusterError(FacetError):
    """Ray cannot be started or joined; the message says what to do."""


def work(where: Where) -> None:
    """Say where this process's workers and tasks run from now on: on Ray, or in this process."""
    global _where
    _where = where


def here() -> bool:
    """Whether all is done in this process; Ray is then not even imported."""
    return _where == "here"


def connect(say: Callable[[str], None] = print) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or that runs on this machine; else start one.

    ``RAY_ADDRESS=auto``, which ``cluster.yaml`` sets on its nodes, never starts one: a job there
    says so if the cluster is down. Does nothing if this process is already connected, or works
    for itself.

    Parameters
    ----------
    say : callable
        Told what is waited for, and what is done another way than asked.

    Raises
    ------
    ClusterError
        If there is no such cluster, or none starts after some attempts.
    """
    if here():
        return
    import ray  # seconds that a process that works for itself is spared

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    shorten_folder(say)
    asked = os.environ.get("RAY_ADDRESS")
    address = find_cluster(asked, say)
    for attempt in range(1, ATTEMPTS + 1):
        waits = threading.Timer(
            SECONDS_BEFORE_SAYING, say, ["Ray is starting, which takes a busy machine a minute"]
        )
        waits.start()
        try:
            ray.init(
                address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
            return
        except BaseException as error:
            ray.shutdown()  # what had started of the node would stand in the way of the next try
            if not isinstance(error, Exception):
                raise
            passing, words = diagnose(error, asked)
            if not passing or attempt == ATTEMPTS:
                raise ClusterError(words) from error
            say(f"Ray has not started ({_brief(error)}): attempt {attempt + 1} of {ATTEMPTS}")
        finally:
            waits.cancel()


def shorten_folder(say: Callable[[str], None] = print) -> None:
    """Give Ray a short folder for its sockets where the machine's own is too long for them."""
    folder = _folder()
    if len(os.fsencode(folder)) <= ROOM_FOR_FOLDER:
        return
    if "RAY_TMPDIR" not in os.environ:
        for short in SHORT_FOLDERS:
            own = Path(short, f"facet-{os.getuid()}")  # /tmp/ray may be another user's
            try:
                own.mkdir(mode=0o700, exist_ok=True)
            except OSError:
                continue
            if own.stat().st_uid == os.getuid():
                os.environ["RAY_TMPDIR"] = str(own)
                say(
                    f"TMPDIR {folder} is too long for Ray's sockets: they go to {own} "
                    "(RAY_TMPDIR chooses another folder)"
                )
                return
    raise ClusterError(
        f"{folder} is too long for Ray's sockets ({len(os.fsencode(folder))} bytes, of "
        f"{ROOM_FOR_FOLDER}): set RAY_TMPDIR to a short folder that this user may write, such as "
        "/tmp/me"
    )


def find_cluster(asked: str | None, say: Callable[[str], None] = print) -> str | None:
    """What to give Ray as the address, once it is known to be answered.

    Ray itself asks a dead address for minutes.

    Parameters
    ----------
    asked : str or None
        ``RAY_ADDRESS``.
    """
    if not asked or asked == "auto":
        address = _noted()
        if address is None or _answers(address):
            return asked or None
        if asked:
            raise ClusterError(
                f"no Ray cluster answers at {address}, which {_note()} names: start it (`ray "
                "start --head`), or unset RAY_ADDRESS to run on this machine alone"
            )
        say(f"no Ray answers at {address} any more, which {_note()} names: starting another")
        return "local"
    if asked == "local" or "://" in asked:  # a Ray client asks for half a minute
        return asked
    if ":" not in asked or not asked.rpartition(":")[2].isdecimal():
        raise ClusterError(
            f"RAY_ADDRESS={asked} is no address: write host:port, auto for the cluster of this "
            "node, or unset it to run on this machine alone"
        )
    if not _answers(asked):
        raise ClusterError(_nobody(asked))
    return asked


def diagnose(error: BaseException, asked: str | None) -> tuple[bool, str]:
    """Whether another try may help, and what to tell the user.

    Parameters
    ----------
    error : BaseException
        What Ray raised.
    asked : str or None
        ``RAY_ADDRESS``.
    """
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    said = " ".join(map(str, chain)).lower()
    brief, folder = _brief(error), _folder()
    if "version mismatch" in said:
        return False, f"{brief}: install the Ray and the Python that the cluster's nodes have"
    slow = "timed out" in said
    if asked and asked != "local":
        return slow, f"{_nobody(asked)} ({brief})"
    if slow:
        return True, _busy(brief)
    if "no space left" in said:
        return False, f"{folder} is full ({brief}): make room, or set RAY_TMPDIR to another folder"
    if any(isinstance(e, PermissionError | FileNotFoundError | NotADirectoryError) for e in chain):
        return False, (
            f"Ray cannot write its sockets and logs to {folder} ({brief}): set RAY_TMPDIR to a "
            "short folder that this user may write"
        )
    if any(word in said for word in ("/dev/shm", "object store", "plasma")):
        return False, (
            f"Ray has no room for shared memory ({brief}): free /dev/shm, or enlarge it (docker "
            "run --shm-size)"
        )
    return True, _busy(brief)


def _busy(brief: str) -> str:
    return (
        f"Ray did not start on this machine in {ATTEMPTS} attempts ({brief}): wait until it is "
        f"less busy, or end other jobs; Ray's logs are in {_folder()}/ray/session_latest/logs"
    )


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _nobody(address: str) -> str:
    return (
        f"no Ray cluster can be joined at RAY_ADDRESS={address}: start it, correct the address, or "
        "unset RAY_ADDRESS to run on this machine alone"
    )


def _folder() -> str:
    """Where Ray makes its own folder."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def _note() -> Path:
    """Where ``ray start`` notes the address of the cluster."""
    return Path(_folder(), "ray", "ray_current_cluster")


def _noted() -> str | None:
    try:
        return _note().read_text().strip() or None
    except OSError:
        return None


def _answers(address: str) -> bool:
    """Whether anything listens at ``host:port``."""
    place = urlsplit(f"//{address}")
    try:
        socket.create_connection((place.hostname, place.port), SECONDS_TO_ANSWER).close()
    except (OSError, ValueError):
        return False
    return True


def check_device(device: str) -> None:
    """Refuse ``cuda`` where there is no GPU and none can come.

    A cluster that is joined is waited for: it may grow.
    """
    if device != "cuda" or (joined() and not here()):
        return
    ray = sys.modules.get("ray")
    if not here() and ray is not None and ray.is_initialized():
        if resources()["GPU"]:
            return
    elif _own_gpu() or (not here() and (address := _noted()) and _answers(address)):
        return
    raise FacetError("`device` cuda: this machine has no GPU; use `device` cpu or auto")


def joined() -> bool:
    """Whether this is a cluster with a life of its own, which may grow."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def _own_gpu() -> bool:
    from torch import cuda  # seconds that jobs without a model are spared

    return cuda.is_available()


def free() -> dict[str, float]:
    """CPUs, GPUs and bytes of memory that nobody has asked for."""
    import ray

    free = ray.available_resources()
    return {name: free.get(name, 0.0) for name in ("CPU", "GPU", "memory")}


def cpus() -> int:
    """CPUs of the whole cluster, or of this machine; at least one."""
    if here():
        return psutil.cpu_count() or 1
    return max(1, int(_total("CPU")))


def resources() -> dict[str, float]:
    """CPUs and GPUs of the whole cluster; in this process, this machine's, of which one GPU."""
    if here():
        return {"CPU": cpus(), "GPU": float(_own_gpu())}
    return {"CPU": _total("CPU"), "GPU": _total("GPU")}


def memory() -> int:
    """Bytes of memory that the whole cluster offers to workers; in this process, what is free."""
    if here():
        return int(psutil.virtual_memory().available)
    return int(_total("memory"))


def node_memory() -> int:
    """Bytes of memory that the largest node of the cluster offers to workers."""
    if here():
        return memory()
    import ray

    return int(max(node["Resources"].get("memory", 0.0) for node in ray.nodes()))


def _total(name: str) -> float:
    import ray

    return float(ray.cluster_resources().get(name, 0.0))
