"""What Ray's metrics endpoint shows of an extraction; Prometheus prefixes the names with ``ray_``.

Counters only ever rise: images a second is ``rate(ray_facet_images_total[1m])``.
"""

from __future__ import annotations

from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from .extractor import ShardReport

# Seconds a stage of a shard may take: from a toy to a large shard on a slow store.
BOUNDARIES = [0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600]


@cache
def _counter(name: str, description: str, *tags: str) -> Counter:
    return Counter(name, description, tags)


@cache
def _gauge(name: str, description: str) -> Gauge:
    return Gauge(name, description)


@cache
def _histogram(name: str, description: str, *tags: str) -> Histogram:
    return Histogram(name, description, BOUNDARIES, tags)


def count_shard(report: ShardReport) -> None:
    """An actor has finished a shard."""
    bad = sum(report.bad.values())
    images = _counter("facet_images_total", "Images finished, ok or bad.", "outcome")
    for outcome, n in (("ok", report.images - bad), ("bad", bad)):
        if n:
            images.inc(n, {"outcome": outcome})
    _counter("facet_shards_total", "Shards finished.").inc()
    _counter("facet_written_bytes_total", "Bytes written, before compression.").inc(report.bytes)
    stages = _histogram("facet_shard_seconds", "Seconds that a stage of a shard took.", "stage")
    stages.observe(report.compute_seconds, {"stage": "compute"})
    stages.observe(report.write_seconds, {"stage": "write"})


def count_retry() -> None:
    """A shard's actor or its pictures were lost: it is done again."""
    _counter("facet_retries_total", "Shards that are done again.").inc()


def show_queue(waiting: int, under_way: int) -> None:
    """The driver's queue."""
    _gauge("facet_shards_waiting", "Shards that no actor has yet.").set(waiting)
    _gauge("facet_shards_under_way", "Shards that actors have.").set(under_way)
