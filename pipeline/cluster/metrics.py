"""What Ray's metrics endpoint shows of an extraction; Prometheus prefixes the names with ``ray_``.

Counters only ever rise: images a second is ``rate(ray_facet_images_total[1m])``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Protocol

from ray.util.metrics import Counter, Gauge


class Report(Protocol):
    """What an actor says of a shard that it finished."""

    @property
    def images(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def bad(self) -> Mapping[str, int]: ...

    @property
    def compute_seconds(self) -> float: ...

    @property
    def write_seconds(self) -> float: ...


@cache
def _counter(name: str, description: str, *tags: str) -> Counter:
    return Counter(name, description, tags)


@cache
def _gauge(name: str, description: str) -> Gauge:
    return Gauge(name, description)


def count_shard(report: Report) -> None:
    """An actor has finished a shard."""
    bad = sum(report.bad.values())
    images = _counter("facet_images_total", "Images finished, ok or bad.", "outcome")
    for outcome, n in (("ok", report.images - bad), ("bad", bad)):
        if n:
            images.inc(n, {"outcome": outcome})
    _counter("facet_shards_total", "Shards finished.").inc()
    _counter("facet_written_bytes_total", "Bytes written, before compression.").inc(report.bytes)
    # No histogram: Ray rebuilds its sum from the middles of the buckets.
    seconds = _counter("facet_seconds_total", "Seconds that shards took, by stage.", "stage")
    for stage, took in (("compute", report.compute_seconds), ("write", report.write_seconds)):
        if took:
            seconds.inc(took, {"stage": stage})


def count_retry() -> None:
    """A shard's actor or its pictures were lost: it is done again."""
    _counter("facet_retries_total", "Shards that are done again.").inc()


def show_queue(waiting: int, under_way: int) -> None:
    """The driver's queue."""
    _gauge("facet_shards_waiting", "Shards that no actor has yet.").set(waiting)
    _gauge("facet_shards_under_way", "Shards that actors have.").set(under_way)
