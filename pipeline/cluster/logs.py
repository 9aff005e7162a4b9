"""Structured logs: one JSON object a line, on standard error, with job, shard and node.

A driver writes them where its standard error is collected, and keeps a terminal for people.
Ray keeps what its workers write, in files of its own.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("facet")
_job = ""


class JsonLines(logging.Formatter):
    """A record as one line of JSON; ``job`` and the node's name are in every one."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self.job = job

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "job": self.job,
            "ray_job": _ray_job(),
            "node": platform.node(),
            "pid": os.getpid(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def start(job: str, *, worker: bool = False) -> None:
    """Write this process's log from here on: always on a worker, never to a driver's terminal."""
    global _job
    _job = job
    logger.propagate = False
    logger.handlers.clear()
    if sys.stderr.isatty() and not worker:
        logger.addHandler(logging.NullHandler())
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(job))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def job() -> str:
    """The job whose log this process writes, for its workers."""
    return _job


def event(name: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log that something happened.

    Parameters
    ----------
    name : str
        The same words for the same thing, such as ``shard finished``.
    level : int
    facts
        JSON-able fields of the line.
    """
    logger.log(level, name, extra={"facts": facts})


def _ray_job() -> str | None:
    """The cluster's name of this run: the same in the driver, its workers and Ray's own logs."""
    ray: Any = sys.modules.get("ray")  # not every job needs it
    if ray is None or not ray.is_initialized():
        return None
    return str(ray.get_runtime_context().get_job_id())
