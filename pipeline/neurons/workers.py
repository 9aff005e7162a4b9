"""The Ray side of neurons: shards to tasks that read the store, or to actors that own the model.

Both hand back states in the order of the shards, whatever order they end in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from pipeline.cluster.crew import ACTOR_CPUS, DECODE_CPUS, RETRIES, Crew, Needs
from pipeline.extraction.extractor import TORCH_DTYPE
from pipeline.extraction.plan import SHARDS_IN_FLIGHT
from pipeline.extraction.run import SPREAD, Workers
from pipeline.images.batches import Batch, load_batch
from pipeline.images.listing import ray_mapper
from pipeline.models import VisionModel
from storage import ledger
from storage.errors import FacetError
from storage.store import Store, open_store

from .forward import NeuronPass
from .rows import ok_images, passed_rows, stored_rows
from .sinks import PictureTask, Task

States = dict[int, Any]
# A shard and the MLP layers that are wanted of it.
Piece = tuple[int, tuple[int, ...]]


# -- from the store ------------------------------------------------------------------------


def read_shard(url: str, task: Task, shard: int, mlp_layer: int) -> Any:
    """The state of one shard from the coefficients that the store keeps; plain code."""
    store = open_store(url, mode="r+")
    sink = task.open(store, mlp_layer, shard, ledger.read_part(url, shard))
    for rows in stored_rows(store, mlp_layer, shard):
        sink.add(rows)
    return sink.close()


def from_store(
    store: Store, task: Task, mlp_layer: int, shards: Sequence[int]
) -> Iterator[tuple[int, States]]:
    """States of shards of one layer, read by tasks on the cluster."""
    kept = [ray.put(task)]
    items = [(store.url, kept, shard, mlp_layer) for shard in shards]
    try:
        for shard, state in zip(shards, ray_mapper(_read_with, items), strict=True):
            yield shard, {mlp_layer: state}
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise FacetError(
            f"a worker died again and again: {error}\nIt is probably out of memory: take fewer "
            "`mlp_layers` at a time. What is done is kept; the same command goes on from there."
        ) from error


def _read_with(item: tuple[str, list[ray.ObjectRef], int, int]) -> Any:
    url, task, shard, mlp_layer = item
    torch.set_num_threads(1)
    return read_shard(url, ray.get(task[0]), shard, mlp_layer)


# -- from the model ------------------------------------------------------------------------


class NeuronWorker:
    """Owns a model; turns shards of decoded batches into states. Plain code, run in an actor.

    Parameters
    ----------
    url : str
        A store with a finished ledger for every shard that is asked for.
    model : VisionModel
        On the CPU, float32.
    device : str
    threads : int
        Torch's threads on the CPU.
    """

    def __init__(self, url: str, model: VisionModel, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.store = open_store(url, mode="r+")
        place = torch.device(device)
        self.model = replace(
            model,
            module=model.module.to(place),
            device=place,
            dtype=TORCH_DTYPE[self.store.meta.precision],
        )
        self._passes: dict[tuple[int, ...], NeuronPass] = {}
        self.seen = 0

    def run(self, piece: Piece, task: Task | PictureTask, batches: Iterable[Batch]) -> States:
        """States of one shard, by MLP layer."""
        shard, layers = piece
        known, start = ledger.read_part(self.store.url, shard), self.store.meta.rows(shard)[0]
        sinks: dict[int, Any] = {
            layer: task.open(self.store, layer, shard, known) for layer in layers
        }
        for batch in batches:
            pictures = ok_images(self.model, batch, known, start)
            if pictures is not None and isinstance(task, PictureTask):
                for sink in sinks.values():
                    sink.add_pictures(pictures)
            elif pictures is not None:
                for rows in passed_rows(self._pass(layers), pictures):
                    sinks[rows.mlp_layer].add(rows)
            self.seen += len(batch.keys)
        return {layer: sink.close() for layer, sink in sinks.items()}

    def _pass(self, layers: tuple[int, ...]) -> NeuronPass:
        if layers not in self._passes:
            self._passes[layers] = NeuronPass(self.model, layers, ("coefficients", "peaks"))
        return self._passes[layers]


class _NeuronActor:
    """A `NeuronWorker` as Ray calls it; the model and the batches come as references."""

    def __init__(self, url: str, device: str, threads: int) -> None:
        self._of = (url, device, threads)
        self._working = threading.Lock()
        self._worker: NeuronWorker | None = None

    def run(
        self,
        piece: Piece,
        shared: tuple[ray.ObjectRef[VisionModel], ray.ObjectRef],
        refs: list[ray.ObjectRef[Batch]],
    ) -> tuple[int, States]:
        # One at a time: a second shard is only here so that its pictures are decoded meanwhile.
        with self._working:
            if self._worker is None:
                url, device, threads = self._of
                self._worker = NeuronWorker(url, ray.get(shared[0]), device, threads)
            batches = (ray.get(ref) for ref in refs)
            return piece[0], self._worker.run(piece, ray.get(shared[1]), batches)

    def ready(self) -> None:
        """Returns once the actor runs."""

    def progress(self) -> int:
        return 0 if self._worker is None else self._worker.seen


def from_model(
    store: Store,
    task: Task | PictureTask,
    model: VisionModel,
    workers: Workers,
    memory: int,
    pieces: Sequence[Piece],
    report: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[int, States]]:
    """States of shards by passes of the model, in order.

    Parameters
    ----------
    memory : int
        Bytes that an actor asks Ray for.
    pieces : sequence of Piece
        Each shard once.
    report : callable
        Told the images computed.
    say : callable
        Told what is waited for, as in extraction.
    """
    actor_class = ray.remote(_NeuronActor)
    decode = ray.remote(load_batch).options(
        num_cpus=DECODE_CPUS, max_retries=RETRIES, scheduling_strategy=SPREAD
    )
    shared, wanted = (ray.put(model), ray.put(task)), dict(pieces)
    resize, batch = model.preprocess.resize, workers.batch_size

    def hire(options: dict[str, Any]) -> Any:
        options |= {"max_concurrency": SHARDS_IN_FLIGHT + 1, "scheduling_strategy": SPREAD}
        return actor_class.options(**options).remote(store.url, workers.device, workers.threads)

    def hand_out(actor: Any, shard: int) -> ray.ObjectRef:
        start, stop = store.meta.rows(shard)
        refs = [
            decode.remote(store.url, at, min(at + batch, stop), resize)
            for at in range(start, stop, batch)
        ]
        # Inside a tuple or list, references are not fetched before the call.
        return actor.run.remote((shard, wanted[shard]), shared, refs)

    def images(shard: int) -> int:
        start, stop = store.meta.rows(shard)
        return stop - start

    crew: Crew[tuple[int, States]] = Crew(
        hire,
        hand_out,
        lambda shard: None,  # a state that was not handed back is lost with its actor
        size=min(workers.actors, len(pieces)),
        slots=SHARDS_IN_FLIGHT,
        needs=Needs(ACTOR_CPUS, 1 if workers.device == "cuda" else 0, memory),
        say=say,
    )
    order, early = iter(wanted), {}
    due = next(order)
    with closing(crew.work(wanted, images)) as work:  # ends the actors, however this ends
        for found in work:
            if isinstance(found, int):
                report(found)
                continue
            early[found[0]] = found[1]
            while due in early:
                yield due, early.pop(due)
                due = next(order, -1)
