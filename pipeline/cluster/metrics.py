"""What Ray's metrics endpoint shows of work over shards; Prometheus puts ``ray_`` before the names.

Counters only ever rise: images a second is ``rate(ray_facet_images_total[1m])``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge

from .work import Report


@cache
def _counter(name: str, description: str, *tags: str) -> Counter:
    return Counter(name, description, tags)


@cache
def _gauge(name: str, description: str) -> Gauge:
    return Gauge(name, description)


def count_shard(report: Report[Any]) -> None:
    """A worker has finished a shard."""
    bad = sum(report.bad.values())
    images = _counter("facet_images_total", "Images finished, ok or bad.", "outcome")
    for outcome, n in (("ok", report.images - bad), ("bad", bad)):
        if n:
            images.inc(n, {"outcome": outcome})
    _counter("facet_shards_total", "Shards finished.").inc()
    if report.bytes:
        written = _counter("facet_written_bytes_total", "Bytes written, before compression.")
        written.inc(report.bytes)
    # No histogram: Ray rebuilds its sum from the middles of the buckets.
    seconds = _counter("facet_seconds_total", "Seconds that shards took, by stage.", "stage")
    for stage, took in (("compute", report.compute_seconds), ("write", report.write_seconds)):
        if took:
            seconds.inc(took, {"stage": stage})


def count_retry() -> None:
    """A shard's worker or its pictures were lost: it is done again."""
    _counter("facet_retries_total", "Shards that are done again.").inc()


def show_queue(waiting: int, under_way: int) -> None:
    """The driver's queue."""
    _gauge("facet_shards_waiting", "Shards that no worker has yet.").set(waiting)
    _gauge("facet_shards_under_way", "Shards that workers have.").set(under_way)
