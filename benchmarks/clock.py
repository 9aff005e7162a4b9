"""The clock of benchmarks that time two ways in turn."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def now() -> float:
    """Seconds: the processor's, which other work does not stretch; where there is a GPU, the wall's
    once it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(work: Callable[[], object]) -> float:
    """What some work takes."""
    started = now()
    work()
    return now() - started
