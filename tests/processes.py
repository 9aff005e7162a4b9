"""Waiting for what happens elsewhere; the processes of the Ray that these tests started."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")
ACTOR, DECODER = "ray::_Actor", "ray::load_batch"


def wait_for(look: Callable[[], T], seconds: float = 120, pause: float = 0.02) -> T:
    """What ``look`` gives as soon as it is truthy; an ``AssertionError`` where it never is."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {seconds} s"
        time.sleep(pause)
    return found


def workers(title: str) -> list[psutil.Process]:
    """Workers by what they do now, of Rays that this process started: never another's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if line.startswith(title):
            found.append(process)
    return found


def kill_in_mid_run(
    start: Callable[[Path], subprocess.Popen], ready: Callable[[Path], bool], places: Iterable[Path]
) -> Path:
    """Kill -9 a driver once its place is ``ready``, and see its actors end; that place.

    A run that ended first, as on a machine that looks away, is tried again in the next place.
    """
    for place in places:
        driver = start(place)
        wait_for(lambda place=place, driver=driver: ready(place) or driver.poll() is not None, 240)
        driver.kill()
        if driver.wait(60) == -signal.SIGKILL:
            wait_for(lambda: not workers(ACTOR))  # Ray ends the killed driver's workers
            return place
    raise AssertionError("every run ended before it could be killed")
