"""A store's shards through the model: what a worker does, and what is made of its reports.

A shard is written whole and idempotently, so doing it again is safe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.cluster import machines, pace
from pipeline.cluster.loop import over_shards
from pipeline.cluster.work import IN_HAND, WORKER_CPUS, Needs, Report, Work, Workers, choose_workers
from pipeline.images.batches import batch_calls
from pipeline.models import VisionModel
from storage import ledger
from storage.metadata import Metadata
from storage.store import Store

from . import plan
from .cost import forward_flops
from .extractor import Extractor
from .progress import Progress, check_bad, so_far


@dataclass(frozen=True, eq=False)
class Extraction(Work[int, None]):
    """Shards of a store to be extracted.

    Attributes
    ----------
    url : str
        A created store.
    meta : Metadata
    model : VisionModel
        On the CPU, float32.
    workers : Workers
    """

    url: str
    meta: Metadata
    model: VisionModel
    workers: Workers

    @property
    def needs(self) -> Needs:
        """A GPU of its own if it uses one, and its projected memory."""
        projection = plan.project(
            self.meta,
            batch_size=self.workers.batch_size,
            image_side=max(self.model.preprocess.size),
            parameters=sum(p.numel() for p in self.model.module.parameters()),
            in_hand=self.in_hand,
        )
        return Needs(WORKER_CPUS, int(self.workers.device == "cuda"), projection.actor)

    @property
    def in_hand(self) -> int:
        """More on a GPU, which does not wait for their writing."""
        return self.workers.in_hand

    def start(self) -> Extractor:
        """The model, in place."""
        return Extractor(self.url, self.model, self.workers.device, self.workers.threads)

    def ahead(self, shard: int) -> list[tuple[Any, ...]]:
        """Its pictures, decoded."""
        rows, resize = self.meta.rows(shard), self.model.preprocess.resize
        return batch_calls(self.url, *rows, self.workers.batch_size, resize)

    def shard(self, shard: int) -> int:
        """Itself."""
        return shard

    def images(self, shard: int) -> int:
        """How many it has."""
        start, stop = self.meta.rows(shard)
        return stop - start

    def decoded_bytes(self, shard: int) -> int:
        """Of its pictures."""
        return self.images(shard) * 3 * math.prod(self.model.preprocess.size)

    def recover(self, shard: int) -> Report[None] | None:
        """From the ledger."""
        if shard not in ledger.done_shards(self.url):
            return None
        (facts,) = ledger.read_facts(self.url, [shard])
        return Report(shard, self.images(shard), facts)


def seconds_here(meta: Metadata, model: VisionModel, images: int, device: str) -> float:
    """How long one process of this machine would take for so many images."""
    (height, width), (rows, columns) = model.preprocess.size, meta.grid
    flops = forward_flops(meta, 3 * (height // rows) * (width // columns))
    return pace.of_images(images, flops, device)


def choose(
    meta: Metadata,
    model: VisionModel,
    device: str,
    actors: int | None,
    batch_size: int | None,
) -> tuple[Workers, plan.Projection]:
    """Workers that fit the cluster, and the bytes that they will need; see ``choose_workers``."""

    def project(batch_size: int, in_hand: int) -> plan.Projection:
        return plan.project(
            meta,
            batch_size=batch_size,
            image_side=max(model.preprocess.size),
            parameters=sum(p.numel() for p in model.module.parameters()),
            in_hand=in_hand,
        )

    workers = choose_workers(
        machines.resources(),
        device,
        actors,
        batch_size,
        shards=meta.shards,
        fit=lambda batch: machines.memory() // project(batch, IN_HAND).actor,
    )
    return workers, project(workers.batch_size, workers.in_hand)


def run(
    store: Store,
    model: VisionModel,
    workers: Workers,
    *,
    max_bad: float,
    report: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = print,
) -> Progress:
    """Extract every shard that the ledger lacks.

    Parameters
    ----------
    store : Store
        Created, opened ``r+``.
    model : VisionModel
        Sent to every worker once.
    workers : Workers
    max_bad : float
        Fraction of the store's images that may be bad.
    report, say : callable
        As ``over_shards`` has them.

    Raises
    ------
    TooManyBadImages
        When ``max_bad`` is passed; the shards done are kept.
    FacetError
        As ``over_shards`` does.
    """
    done = store.done_shards()
    store.sweep(done)
    pending = [s for s in range(store.meta.shards) if s not in done]
    progress = so_far(store, max_bad)
    if not pending:
        return progress
    work = Extraction(store.url, store.meta, model, workers)
    with over_shards(work, pending, workers.actors, report=report, say=say) as finished:
        for shard in finished:
            progress.count(shard.facts)
            check_bad(store, progress, max_bad)
    progress.images = sum(map(work.images, pending))
    return progress
