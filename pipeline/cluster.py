"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os

import ray


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names; else start one on this machine.

    Does nothing if this process is already connected.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray ignores include_dashboard where a cluster is joined rather than started.
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def resources() -> dict[str, float]:
    """CPUs and GPUs of the whole cluster."""
    total = ray.cluster_resources()
    return {"CPU": total.get("CPU", 0.0), "GPU": total.get("GPU", 0.0)}
