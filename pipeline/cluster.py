"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os

import ray
import tenacity

# Ray gives a node 30 seconds to start; a busy machine with cold disks can need a second try.
ATTEMPTS = 4


@tenacity.retry(
    retry=tenacity.retry_if_exception_message(match=r".*timed out during startup"),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    reraise=True,
)
def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or that runs on this machine; else start one.

    ``RAY_ADDRESS=auto``, which ``cluster.yaml`` sets on its nodes, never starts one: a job there
    says so if the cluster is down. Does nothing if this process is already connected.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except BaseException:
        ray.shutdown()  # what had started of the node would stand in the way of the next try
        raise


def joined() -> bool:
    """Whether this is a cluster with a life of its own, which may grow."""
    return bool(os.environ.get("RAY_ADDRESS"))


def free() -> dict[str, float]:
    """CPUs, GPUs and bytes of memory that nobody has asked for."""
    free = ray.available_resources()
    return {name: free.get(name, 0.0) for name in ("CPU", "GPU", "memory")}


def resources() -> dict[str, float]:
    """CPUs and GPUs of the whole cluster."""
    total = ray.cluster_resources()
    return {"CPU": total.get("CPU", 0.0), "GPU": total.get("GPU", 0.0)}


def memory() -> int:
    """Bytes of memory that the whole cluster offers to workers."""
    return int(ray.cluster_resources().get("memory", 0.0))


def node_memory() -> int:
    """Bytes of memory that the largest node of the cluster offers to workers."""
    return int(max(node["Resources"].get("memory", 0.0) for node in ray.nodes()))
