"""Joining a Ray cluster, or starting one on this machine; or doing without, in this process."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from humanize import naturaldelta, naturalsize

from storage.errors import FacetError

from . import logs

# Ray gives a node 30 seconds to start; a busy machine with cold disks can need a second try.
ATTEMPTS = 4
SECONDS_BEFORE_SAYING = 10.0
SECONDS_BETWEEN_SAYING = 60.0
SECONDS_TO_ANSWER = 10.0
WORDS_LOGGED = 500
ROOM_FOR_LOGS = 50_000_000
# A socket's path has 107 bytes (103 on macOS), of which Ray's own folders and names take the end:
# /ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.12
ROOM_FOR_FOLDER = (103 if os.uname().sysname == "Darwin" else 107) - 71
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


# Ray takes 10 to 60 seconds to start, and its workers as long again to import their libraries.
SECONDS_HERE = 60.0

Where = Literal["auto", "ray", "here"]
_asked: Where = "auto"
_here: bool | None = None  # not settled
_told = False


class ClusterError(FacetError):
    """Ray cannot be started or joined; the message says what to do."""


def work(where: Where) -> None:
    """Say where this process's workers and tasks run from now on.

    Parameters
    ----------
    where : {"auto", "ray", "here"}
        On Ray, or in this process. ``auto``: on a cluster that is named, that runs on this machine
        or that was joined before; where there is none, as `settle` finds.
    """
    global _asked, _here, _told
    _asked, _told = where, False
    _here = None if where == "auto" else where == "here"


def here() -> bool:
    """Whether all is done in this process; Ray is then not even imported."""
    global _here
    if _here is None:
        _here = not _at_hand()
    return _here


def settle(
    seconds: float, what: str, say: Callable[[str], None] = print, *, more: bool = False
) -> None:
    """Settle, before it is done, where work is done; join or start Ray if it is there.

    With a choice, and no cluster at hand, the one rule is: work that one process here would do in
    ``SECONDS_HERE`` is done by this one, as Ray would hardly be ready by then.

    Parameters
    ----------
    seconds : float
        That the work would take one process of this machine: see ``pace``.
    what : str
        How much it is, such as ``2 shards``.
    say : callable
        As `connect` has it.
    more : bool
        Whether the job's own work is settled later, or is none: it is not said that it is here.
    """
    global _told
    if _asked == "auto" and here():
        about = f"{seconds:.0f} s" if seconds < 120 else naturaldelta(seconds)
        if seconds > SECONDS_HERE:
            say(f"starts Ray: {what}, about {about} for one process")
        elif not (_told or more):
            say(f"works in this process: {what}, about {about}")
            _told = True
        if seconds <= SECONDS_HERE:
            return
    connect(say)


def _at_hand() -> bool:
    """Whether a cluster is named, runs on this machine, or has been joined."""
    noted = _noted()
    return bool(joined() or _connected() or (noted and _answers(noted)))


def _connected() -> bool:
    ray = sys.modules.get("ray")  # seconds that a process that works for itself is spared
    return ray is not None and bool(ray.is_initialized())


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
    global _here
    if _asked == "here":
        return
    _here = False
    if _connected():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    shorten_folder(say)
    refuse_full_folder()
    asked = os.environ.get("RAY_ADDRESS")
    address = find_cluster(asked, say)
    there = None if address == "local" else joined() or _noted()
    say(f"joining the Ray cluster at {there}" if there else "starting Ray")
    import ray

    # Without its workers' output, too, Ray prints what befalls nodes, with pages of their logs;
    # what a job has to know of it reaches the job as an error.
    ray._private.worker.print_to_stdstream = _log
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _saying(say, "Ray is starting, which takes a busy machine a minute or two"):
                ray.init(
                    address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        except BaseException as error:
            ray.shutdown()  # what had started of the node would stand in the way of the next try
            if not isinstance(error, Exception):
                raise
            passing, words = diagnose(error, asked)
            if not passing or attempt == ATTEMPTS:
                raise ClusterError(words) from error
            say(f"Ray needs longer than it gives itself: attempt {attempt + 1} of {ATTEMPTS}")


def _log(data: Any, ignore_prefix: bool) -> None:
    """Ray's words to people, in the job's log."""
    words = " ".join(str(data["lines"][0]).split())
    logs.event("of Ray", level=logging.WARNING, words=words[:WORDS_LOGGED])


def died(error: Exception) -> ClusterError:
    """What to tell the user when Ray itself is gone under a job."""
    return ClusterError(
        f"Ray ended while this job worked on it ({type(error).__name__}), as it does where memory "
        f"or disk end; its logs are in {_folder()}/ray/session_latest/logs. What is done is kept; "
        "the same command goes on from there."
    )


@contextmanager
def _saying(say: Callable[[str], None], words: str) -> Iterator[None]:
    """Say, now and then, what is waited for in this block."""
    done = threading.Event()

    def tell() -> None:
        pause = SECONDS_BEFORE_SAYING
        while not done.wait(pause):
            say(words)
            pause = SECONDS_BETWEEN_SAYING

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def refuse_full_folder() -> None:
    """Refuse a disk that has no room for Ray's sockets and logs: it would wait in vain for them."""
    folder = Path(_folder()).absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = psutil.disk_usage(str(there)).free
    if free < ROOM_FOR_LOGS:
        raise ClusterError(
            f"{folder} is full ({naturalsize(free)} free), and Ray keeps its sockets and logs "
            "there: make room, or set RAY_TMPDIR to a short folder on another disk"
        )


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
        return slow, f"{_nobody(asked)}{_token()} ({brief})"
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
        f"less busy, or end other jobs; or do without Ray, by `workers` here. Where the machine is "
        f"not busy, what stopped Ray stands in {_folder()}/ray/session_latest/logs"
    )


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _nobody(address: str) -> str:
    return (
        f"no Ray cluster can be joined at RAY_ADDRESS={address}: start it, correct the address, or "
        "unset RAY_ADDRESS to run on this machine alone"
    )


def _token() -> str:
    """What else may be lacking where somebody answers: Ray gives no token to an address unasked."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return ""
    return "; if it asks for a token, set RAY_AUTH_MODE=token"


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
    elsewhere = _asked != "here"
    if device != "cuda" or (joined() and elsewhere):
        return
    if elsewhere and _connected():
        if resources()["GPU"]:
            return
    elif own_gpu() or (elsewhere and _at_hand()):
        return
    raise FacetError("`device` cuda: this machine has no GPU; use `device` cpu or auto")


def check_decode(decode: str, device: str) -> None:
    """Refuse to decode on a GPU where none is used, or none can be."""
    if decode != "gpu":
        return
    other = "use `decode` fast or exact"
    if device == "cpu":
        raise FacetError(f"`decode` gpu: `device` cpu does not use a GPU; {other}")
    try:
        check_device("cuda")
    except FacetError:
        raise FacetError(f"`decode` gpu: this machine has no GPU; {other}") from None


def joined() -> str | None:
    """The address of a cluster that is named; it has a life of its own, and may grow."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def own_gpu() -> bool:
    """Whether this machine has a GPU."""
    from torch import cuda  # seconds that jobs without a model are spared

    return cuda.is_available()


def own_cpus() -> int:
    """CPUs of this machine."""
    return psutil.cpu_count() or 1


def free() -> dict[str, float]:
    """CPUs, GPUs and bytes of memory that nobody has asked for."""
    import ray

    free = ray.available_resources()
    return {name: free.get(name, 0.0) for name in ("CPU", "GPU", "memory")}


def cpus() -> int:
    """CPUs of the whole cluster, or of this machine; at least one."""
    if here():
        return own_cpus()
    return max(1, int(_total("CPU")))


def resources() -> dict[str, float]:
    """CPUs and GPUs of the whole cluster; in this process, this machine's, of which one GPU."""
    if here():
        return {"CPU": cpus(), "GPU": float(own_gpu())}
    return {"CPU": _total("CPU"), "GPU": _total("GPU")}


def memory() -> int:
    """Bytes of memory that the whole cluster offers to workers; in this process, what is free."""
    if here():
        return int(psutil.virtual_memory().available)
    return int(_total("memory"))


def shared_memory() -> int:
    """Bytes that Ray's object stores hold, of the whole cluster."""
    return int(_total("object_store_memory"))


def node_memory() -> int:
    """Bytes of memory that the largest node of the cluster offers to workers."""
    if here():
        return memory()
    import ray

    return int(max(node["Resources"].get("memory", 0.0) for node in ray.nodes()))


def _total(name: str) -> float:
    import ray

    return float(ray.cluster_resources().get(name, 0.0))
