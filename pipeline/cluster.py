"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os

import ray


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` or a running node names; else start a local one.

    Does nothing if this process is already connected.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(include_dashboard=False, **quiet)


def resources() -> dict[str, float]:
    """CPUs and GPUs of the whole cluster."""
    total = ray.cluster_resources()
    return {"CPU": total.get("CPU", 0.0), "GPU": total.get("GPU", 0.0)}
