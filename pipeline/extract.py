"""The Ray side of extraction: actors that own the model, tasks that decode ahead, one driver.

The driver hands out shards that the ledger lacks. Ray restarts an actor or a task that
dies and runs its work again; a shard is written whole and idempotently, so again is safe.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError, WorkerCrashedError

from storage import ledger
from storage.errors import FacetError
from storage.store import Store

from .extractor import Extractor, ShardReport
from .images.batches import Batch, load_batch
from .models import VisionModel
from .plan import SHARDS_IN_FLIGHT

# Half a CPU each lets one actor and one decoding task share a single core.
ACTOR_CPUS = 0.5
DECODE_CPUS = 0.5
RESTARTS = 20
RETRIES = 5


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
    """What has become of the run so far; ``images`` counts those computed in this run."""

    total: int
    images: int = 0
    shards: int = 0
    bad: Counter[str] = field(default_factory=Counter)


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

    Raises
    ------
    FacetError
        If the cluster has no GPU and one was asked for, or a number is not positive.
    """
    cpus, gpus = max(1, int(cluster["CPU"])), int(cluster["GPU"])
    for flag, value in (("--num-actors", actors), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise FacetError(f"{flag} {value}: must be at least 1")
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda":
        if not gpus:
            raise FacetError("--device cuda: the Ray cluster has no GPU; use --device cpu or auto")
        return Workers(device, actors or gpus, 1, batch_size or 256)
    batch_size = batch_size or 32
    # Single threads do not wait for each other: two actors outrun one with two threads.
    count = min(actors or max(1, min(cpus, fit(batch_size))), shards)
    return Workers(device, count, max(1, cpus // count), batch_size)


class _Actor:
    """An extractor as Ray calls it: the model and the batches come as references.

    The model comes with the work, not with the constructor: a restarted actor then has it too.
    """

    def __init__(self, url: str, device: str, threads: int) -> None:
        self._make = partial(Extractor, url, device=device, threads=threads)
        self._making = threading.Lock()
        self._extractor: Extractor | None = None

    def extract(
        self, shard: int, model: list[ray.ObjectRef[VisionModel]], refs: list[ray.ObjectRef[Batch]]
    ) -> ShardReport:
        with self._making:
            if self._extractor is None:
                self._extractor = self._make(ray.get(model[0]))
        return self._extractor.extract(shard, (ray.get(ref) for ref in refs))

    def progress(self) -> int:
        return 0 if self._extractor is None else self._extractor.progress()


def run(
    store: Store,
    model: VisionModel,
    workers: Workers,
    *,
    max_bad: float,
    report: Callable[[Progress], None] = lambda progress: None,
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

    Raises
    ------
    TooManyBadImages
        When ``max_bad`` is passed; the shards done are kept.
    FacetError
        Whatever an actor found wrong that the user can mend.
    """
    store.sweep()
    done = store.done_shards()
    pending = [s for s in range(store.meta.shards) if s not in done]
    progress = Progress(total=sum(_images(store, s) for s in pending))
    for shard in sorted(done):
        progress.bad.update(ledger.read_facts(store.url, shard)["bad"])
    _check_bad(store, progress, max_bad)
    if not pending:
        return progress
    actors = _start_actors(store.url, workers, len(pending))
    done_images = 0
    try:
        for finished in _drive(store, actors, model, workers.batch_size, pending):
            if isinstance(finished, ShardReport):
                progress.shards += 1
                done_images += finished.images
                progress.bad.update(finished.bad)
                _check_bad(store, progress, max_bad)
            else:
                # A restarted actor counts from zero again: never go back, never under what is done.
                progress.images = max(progress.images, finished, done_images)
            report(progress)
    except RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, FacetError) else error) from None
    except (ActorDiedError, WorkerCrashedError) as error:
        raise FacetError(
            f"a worker died {RETRIES} times over on the same work: {error}\n"
            "It is probably out of memory: lower --batch-size, --shard-size or --num-actors. "
            "Finished shards are kept; the same command goes on from them."
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)
    return progress


def _images(store: Store, shard: int) -> int:
    start, stop = store.meta.rows(shard)
    return stop - start


def _start_actors(url: str, workers: Workers, pending: int) -> list[Any]:
    actor_class = ray.remote(_Actor).options(
        num_cpus=ACTOR_CPUS,
        num_gpus=1 if workers.device == "cuda" else 0,
        max_restarts=RESTARTS,
        max_task_retries=RETRIES,
        max_concurrency=SHARDS_IN_FLIGHT + 1,  # and one for progress()
    )
    return [
        actor_class.remote(url, workers.device, workers.threads)
        for _ in range(min(workers.actors, pending))
    ]


def _drive(
    store: Store, actors: list[Any], model: VisionModel, batch_size: int, pending: list[int]
) -> Iterator[ShardReport | int]:
    """Keep every actor's slots full; yield shard reports, and the images computed so far."""
    decode = ray.remote(load_batch).options(num_cpus=DECODE_CPUS, max_retries=RETRIES)
    weights, resize = ray.put(model), model.preprocess.resize
    queue = iter(pending)
    under_way: dict[ray.ObjectRef, Any] = {}

    def hand_out(actor: Any) -> None:
        shard = next(queue, None)
        if shard is None:
            return
        start, stop = store.meta.rows(shard)
        refs = [
            decode.remote(store.url, at, min(at + batch_size, stop), resize)
            for at in range(start, stop, batch_size)
        ]
        under_way[actor.extract.remote(shard, [weights], refs)] = actor

    for _ in range(SHARDS_IN_FLIGHT):
        for actor in actors:
            hand_out(actor)
    computed = dict.fromkeys(range(len(actors)), 0)
    while under_way:
        ready, _ = ray.wait(list(under_way), num_returns=1, timeout=0.5)
        for ref in ready:
            hand_out(under_way.pop(ref))
            yield ray.get(ref)
        for number, actor in enumerate(actors):
            with contextlib.suppress(RayError):  # an actor that is being restarted cannot say
                computed[number] = ray.get(actor.progress.remote(), timeout=1.0)
        yield sum(computed.values())


def _check_bad(store: Store, progress: Progress, max_bad: float) -> None:
    bad, images = progress.bad.total(), store.meta.images
    if bad <= max_bad * images:
        return
    reasons = "\n".join(f"  {n} × {reason}" for reason, n in progress.bad.most_common(5))
    raise TooManyBadImages(
        f"{bad} of {images} images are bad, more than --max-bad {max_bad:g} allows:\n{reasons}\n"
        "The shards done are kept and the ledger names every image. Mend the images and use a new "
        "--store, or run again with a larger --max-bad."
    )
