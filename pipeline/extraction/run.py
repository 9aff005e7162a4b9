"""The Ray side of extraction: actors that own the model, tasks that decode ahead, one driver.

The driver hands out shards that the ledger lacks; a shard whose actor dies is handed out again.
A shard is written whole and idempotently, so again is safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray

from pipeline.cluster import logs, metrics
from pipeline.cluster.crew import ACTOR_CPUS, DECODE_CPUS, RETRIES, Crew, Needs
from pipeline.images.bad import BadImages
from pipeline.images.batches import Batch, load_batch
from pipeline.models import VisionModel
from storage import ledger
from storage.errors import FacetError
from storage.metadata import Metadata
from storage.store import Store

from . import plan
from .extractor import Extractor, ShardReport

RESTARTS = 20
# On the nodes that have room, instead of filling one after the other.
SPREAD = "SPREAD"


class TooManyBadImages(FacetError):
    """More images were bad than ``max_bad`` allows."""


@dataclass(frozen=True)
class Workers:
    """What runs the model.

    Attributes
    ----------
    device : str
        ``cpu`` or ``cuda``.
    actors : int
    threads : int
        Torch's threads in one actor.
    batch_size : int
        Images in one forward pass.
    """

    device: str
    actors: int
    threads: int
    batch_size: int


@dataclass
class Progress:
    """What has become of the run so far.

    Attributes
    ----------
    total, images, shards : int
        To do, computed and finished in this run.
    bad : BadImages
        Of all finished shards.
    sums, largest : dict of str to float
        Of ``residual`` and ``rounding``, over the images of all finished shards that are ok.
    """

    total: int
    images: int = 0
    shards: int = 0
    bad: BadImages = field(default_factory=BadImages)
    sums: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def count(self, facts: dict[str, dict[str, Any]]) -> None:
        """Take in what the ledger keeps of a finished shard."""
        self.bad.add(facts)
        for name in facts.keys() & {"residual", "rounding"}:
            self.sums[name] = self.sums.get(name, 0.0) + facts[name]["sum"]
            self.largest[name] = max(self.largest.get(name, 0.0), facts[name]["max"])


def choose_workers(
    cluster: dict[str, float],
    device: str,
    actors: int | None,
    batch_size: int | None,
    *,
    shards: int,
    fit: Callable[[int], int],
) -> Workers:
    """Fill in what the user left to us: one actor a GPU, or one a CPU.

    Parameters
    ----------
    cluster : dict
        Its ``CPU`` and ``GPU`` counts.
    device : {"auto", "cpu", "cuda"}
    actors, batch_size : int or None
        None: ours to choose.
    shards : int
        Of the whole store, so that a run that goes on computes as the first one did.
    fit : callable
        How many actors the cluster's memory holds, given the batch size.

    A GPU that is asked for and not there is waited for: a cluster that grows may bring it.

    Raises
    ------
    FacetError
        If a number is not positive.
    """
    cpus, gpus = max(1, int(cluster["CPU"])), int(cluster["GPU"])
    for setting, value in (("num_actors", actors), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise FacetError(f"`{setting}` {value}: must be at least 1")
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda":
        return Workers(device, actors or max(1, gpus), 1, batch_size or 256)
    batch_size = batch_size or 32
    # Single threads do not wait for each other: two actors outrun one with two threads.
    count = min(actors or max(1, min(cpus, fit(batch_size))), shards)
    return Workers(device, count, max(1, cpus // count), batch_size)


class _Actor:
    """An extractor as Ray calls it: the model and the batches come as references."""

    def __init__(self, url: str, device: str, threads: int) -> None:
        self._make = partial(Extractor, url, device=device, threads=threads)
        self._making = threading.Lock()
        self._extractor: Extractor | None = None
        logs.start("extract", worker=True)
        logs.event("actor started", device=device, store=url)

    def ready(self) -> None:
        """Returns once the actor runs."""

    def extract(
        self, shard: int, model: list[ray.ObjectRef[VisionModel]], refs: list[ray.ObjectRef[Batch]]
    ) -> ShardReport:
        with self._making:
            if self._extractor is None:
                self._extractor = self._make(ray.get(model[0]))
        report = self._extractor.extract(shard, (ray.get(ref) for ref in refs))
        metrics.count_shard(report)
        return report

    def progress(self) -> int:
        return 0 if self._extractor is None else self._extractor.progress()


def needs(meta: Metadata, model: VisionModel, workers: Workers) -> Needs:
    """What one actor asks Ray for: a GPU of its own if it uses one, and its projected memory."""
    projection = plan.project(
        meta,
        batch_size=workers.batch_size,
        image_side=max(model.preprocess.size),
        parameters=sum(p.numel() for p in model.module.parameters()),
    )
    return Needs(ACTOR_CPUS, 1 if workers.device == "cuda" else 0, projection.actor)


def run(
    store: Store,
    model: VisionModel,
    workers: Workers,
    *,
    max_bad: float,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = print,
) -> Progress:
    """Extract every shard that the ledger lacks.

    Parameters
    ----------
    store : Store
        Created, opened ``r+``.
    model : VisionModel
        Sent to every actor once.
    workers : Workers
    max_bad : float
        Fraction of the store's images that may be bad.
    report : callable
        Called about twice a second.
    say : callable
        Told what the actors ask Ray for and, while the cluster cannot give it, what is waited for.

    Raises
    ------
    TooManyBadImages
        When ``max_bad`` is passed; the shards done are kept.
    FacetError
        Whatever an actor found wrong that the user can mend; if actors cannot start or die again
        and again; if there is no GPU, one was asked for, and none can come.
    """
    store.sweep()
    done = store.done_shards()
    pending = [s for s in range(store.meta.shards) if s not in done]
    progress = Progress(total=sum(_images(store, s) for s in pending))
    for facts in ledger.read_facts(store.url, sorted(done)):
        progress.count(facts)
    _check_bad(store, progress, max_bad)
    if not pending:
        return progress
    crew = _crew(store, model, workers, len(pending), say)
    # Closed, so that its actors end here even while an error is on its way.
    with closing(crew.work(pending, partial(_images, store))) as steps:
        for finished in steps:
            if isinstance(finished, ShardReport):
                progress.shards += 1
                log_shard(finished)
                progress.count(finished.facts)
                _check_bad(store, progress, max_bad)
            else:
                # What a dead actor had half done is computed again: the count never goes back.
                progress.images = min(max(progress.images, finished), progress.total)
            report(progress)
    progress.images = progress.total
    report(progress)
    return progress


def log_shard(report: ShardReport) -> None:
    """One line of the driver's log."""
    logs.event(
        "shard finished",
        shard=report.shard,
        images=report.images,
        bad=report.bad,
        bytes=report.bytes,
        compute_seconds=round(report.compute_seconds, 3),
        write_seconds=round(report.write_seconds, 3),
        done_on=report.node,
    )


def _images(store: Store, shard: int) -> int:
    start, stop = store.meta.rows(shard)
    return stop - start


def _crew(
    store: Store, model: VisionModel, workers: Workers, pending: int, say: Callable[[str], None]
) -> Crew[ShardReport]:
    asked = needs(store.meta, model, workers)
    say(f"each of {min(workers.actors, pending)} workers asks Ray for {asked}")
    actor_class = ray.remote(_Actor)
    decode = ray.remote(load_batch).options(
        num_cpus=DECODE_CPUS, max_retries=RETRIES, scheduling_strategy=SPREAD
    )
    weights, resize, batch = ray.put(model), model.preprocess.resize, workers.batch_size

    def hire(options: dict[str, Any]) -> Any:
        # One slot more than shards, for progress().
        options |= {"max_concurrency": plan.SHARDS_IN_FLIGHT + 1, "scheduling_strategy": SPREAD}
        return actor_class.options(**options).remote(store.url, workers.device, workers.threads)

    def hand_out(actor: Any, shard: int) -> ray.ObjectRef[ShardReport]:
        start, stop = store.meta.rows(shard)
        refs = [
            decode.remote(store.url, at, min(at + batch, stop), resize)
            for at in range(start, stop, batch)
        ]
        return actor.extract.remote(shard, [weights], refs)

    def recover(shard: int) -> ShardReport | None:
        if shard not in store.done_shards():
            return None
        (facts,) = ledger.read_facts(store.url, [shard])
        return ShardReport(shard, _images(store, shard), facts)

    return Crew(
        hire,
        hand_out,
        recover,
        size=min(workers.actors, pending),
        slots=plan.SHARDS_IN_FLIGHT,
        needs=asked,
        say=say,
    )


def _check_bad(store: Store, progress: Progress, max_bad: float) -> None:
    bad, images = progress.bad.total(), store.meta.images
    if bad <= max_bad * images:
        return
    raise TooManyBadImages(
        f"{bad} of {images} images are bad, more than `max_bad` {max_bad:g} allows:\n"
        f"{progress.bad.lines()}\nThe shards done are kept and the ledger names every image. Mend "
        "the images and use a new `store`, or run again with a larger `max_bad`."
    )
