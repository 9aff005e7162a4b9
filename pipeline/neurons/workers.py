"""Shards to states: by tasks that read the store, or by workers that own the model.

Both hand back states in the order of the shards, whatever order they end in.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.cluster.loop import over_shards
from pipeline.cluster.tasks import each
from pipeline.cluster.work import WORKER_CPUS, Needs, Report, Work, Workers
from pipeline.extraction.feed import Link
from pipeline.images.bad import BadImages
from pipeline.images.batches import Batch, batch_calls
from pipeline.models import VisionModel
from pipeline.models.arithmetic import TF32, placed, settle
from storage import ledger
from storage.metadata import Metadata
from storage.store import Store, open_store

from .forward import NeuronPass
from .rows import ok_images, passed_rows, stored_rows
from .sinks import PictureTask, Task

States = dict[int, Any]
# A shard and the MLP layers that are wanted of it.
Wanted = tuple[int, tuple[int, ...]]


# -- from the store ------------------------------------------------------------------------


def read_shard(task: Task, url: str, mlp_layer: int, shard: int) -> Any:
    """The state of one shard from the coefficients that the store keeps."""
    store = open_store(url, mode="r+")
    sink = task.open(store, mlp_layer, shard, ledger.read_part(store.data, shard))
    for rows in stored_rows(store, mlp_layer, shard):
        sink.add(rows)
    return sink.close()


def from_store(
    store: Store, task: Task, mlp_layer: int, shards: Sequence[int]
) -> Iterator[tuple[int, States]]:
    """States of shards of one layer, read by tasks."""
    states = each(read_shard, shards, task, store.url, mlp_layer)
    for shard, state in zip(shards, states, strict=True):
        yield shard, {mlp_layer: state}


# -- from the model ------------------------------------------------------------------------


class NeuronWorker:
    """Owns a model; turns shards of decoded batches into states.

    Parameters
    ----------
    url : str
        A store with a finished ledger for every shard that is asked for.
    model : VisionModel
        On the CPU, float32.
    task : Task or PictureTask
        What the states are.
    device : str
    threads : int
        Torch's threads on the CPU.
    """

    def __init__(
        self, url: str, model: VisionModel, task: Task | PictureTask, device: str, threads: int
    ) -> None:
        settle(threads, TF32)
        self.store, self.task = open_store(url, mode="r+"), task
        self.model = placed(model, device, self.store.meta.precision)
        self._link = Link(self.model.device)
        self._passes: dict[tuple[int, ...], NeuronPass] = {}
        self._seen = 0
        # One at a time: a second shard is only here so that its pictures are decoded meanwhile.
        self._computing = threading.Lock()

    def progress(self) -> int:
        """Images computed since it was made."""
        return self._seen

    def do(self, wanted: Wanted, batches: Iterable[Batch]) -> Report[States]:
        """States of one shard, by MLP layer."""
        # Pictures are on their way before it is their turn.
        with self._link.placed(batches) as fed, self._computing:
            started = time.monotonic()
            shard, layers = wanted
            known = ledger.read_part(self.store.data, shard)
            states = self._states(shard, layers, known, fed)
            bad = BadImages.of(map(str, known["index"]), known["error"].to_pylist())
            seconds = time.monotonic() - started
        return Report(
            shard,
            len(known),
            bad.facts(),
            compute_seconds=seconds,
            node=platform.node(),
            value=states,
        )

    def _states(
        self, shard: int, layers: tuple[int, ...], known: Any, fed: Iterable[tuple[Batch, Tensor]]
    ) -> States:
        start = self.store.meta.rows(shard)[0]
        sinks: dict[int, Any] = {
            layer: self.task.open(self.store, layer, shard, known) for layer in layers
        }
        for batch, pixels in fed:
            pictures = ok_images(self.model, batch, pixels, known, start)
            if pictures is not None and isinstance(self.task, PictureTask):
                for sink in sinks.values():
                    sink.add_pictures(pictures)
            elif pictures is not None:
                for rows in passed_rows(self._pass(layers), pictures):
                    sinks[rows.mlp_layer].add(rows)
            self._seen += len(batch.keys)
        return {layer: sink.close() for layer, sink in sinks.items()}

    def _pass(self, layers: tuple[int, ...]) -> NeuronPass:
        if layers not in self._passes:
            self._passes[layers] = NeuronPass(self.model, layers, ("coefficients", "peaks"))
        return self._passes[layers]


@dataclass(frozen=True, eq=False)
class NeuronWork(Work[Wanted, States]):
    """Shards of a store whose pictures go through the model again.

    Attributes
    ----------
    url, data : str
        Of the store, and of its images.
    meta : Metadata
    model : VisionModel
        On the CPU, float32.
    task : Task or PictureTask
    workers : Workers
    memory : int
        Bytes that a worker needs.
    """

    url: str
    data: str
    meta: Metadata
    model: VisionModel
    task: Task | PictureTask
    workers: Workers
    memory: int

    @property
    def needs(self) -> Needs:
        """A GPU of its own if it uses one, and its projected memory."""
        return Needs(WORKER_CPUS, int(self.workers.device == "cuda"), self.memory)

    def start(self) -> NeuronWorker:
        """The model, in place."""
        device, threads = self.workers.device, self.workers.threads
        return NeuronWorker(self.url, self.model, self.task, device, threads)

    def ahead(self, wanted: Wanted) -> list[tuple[Any, ...]]:
        """The shard's pictures, decoded."""
        rows, resize = self.meta.rows(wanted[0]), self.model.preprocess.resize
        return batch_calls(self.data, *rows, self.workers.batch_size, resize)

    def shard(self, wanted: Wanted) -> int:
        """The first of the two."""
        return wanted[0]

    def images(self, wanted: Wanted) -> int:
        """How many the shard has."""
        start, stop = self.meta.rows(wanted[0])
        return stop - start

    def decoded_bytes(self, wanted: Wanted) -> int:
        """Of its pictures."""
        return self.images(wanted) * 3 * math.prod(self.model.preprocess.size)


def from_model(
    store: Store,
    task: Task | PictureTask,
    model: VisionModel,
    workers: Workers,
    memory: int,
    wanted: Sequence[Wanted],
    report: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[int, States]]:
    """States of shards by passes of the model, in order.

    Parameters
    ----------
    memory : int
        Bytes that a worker asks for.
    wanted : sequence of Wanted
        Each shard once.
    report, say : callable
        As ``over_shards`` has them.
    """
    work = NeuronWork(store.url, store.data, store.meta, model, task, workers, memory)
    with over_shards(
        work, wanted, workers.actors, in_order=True, report=report, say=say
    ) as finished:
        for shard in finished:
            assert shard.value is not None  # states are never lost on the way
            yield shard.shard, shard.value
