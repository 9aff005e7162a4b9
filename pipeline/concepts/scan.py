"""A subset's concepts over a store: what it takes, and the scan, which goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from humanize import naturalsize

from pipeline.cluster import machines, pace
from pipeline.cluster.room import refuse_memory
from pipeline.cluster.tasks import each
from pipeline.cluster.work import Workers, choose_workers
from pipeline.extraction.run import seconds_here
from pipeline.models import VisionModel
from pipeline.neurons.plan import project
from pipeline.subsets import shard_rows
from pipeline.telling import SILENT, Teller, several
from storage import neurons
from storage.store import Store, open_store

from . import saved_counts
from .by_codes import ByHeads
from .over import refuse_few
from .subset import Counts, Question, counted, merge, passed, task_bytes

# Counts are written after so much work at the least: what a kill can cost.
SAVE_SECONDS = 60.0
# What takes less memory.
FEWER = "take fewer `mlp_layers` at a time"


@dataclass(frozen=True, eq=False)
class Scan:
    """What a scan will do.

    Attributes
    ----------
    question : Question
    store : Store
    shards : list of int
        Finished ones.
    model : VisionModel or None
        On the CPU, where the images pass through it.
    workers : Workers or None
        What runs it.
    memory : int
        Bytes that one of those needs, or one task.
    """

    question: Question
    store: Store
    shards: list[int]
    model: VisionModel | None = None
    workers: Workers | None = None
    memory: int = 0

    def facts(self, inside: int, outside: int) -> dict[str, str]:
        """The plan, in words."""
        images = inside + outside
        facts = {
            "images": f"{inside:,} inside, {outside:,} outside, in "
            f"{several(len(self.shards), 'shard')}",
            "texts": ", ".join(
                f"{len(by.texts):,} by {name}" for name, by in self.question.methods.items()
            ),
            "will read": naturalsize(images * bytes_per_image(self.question, self.store)),
        }
        if self.workers is None:
            facts["memory"] = f"{naturalsize(self.memory)} a task"
        else:
            facts["passes of the model"] = (
                f"1, as the store does not keep what neurons do: {self.workers.actors} × "
                f"{self.workers.device}, batches of {self.workers.batch_size}, "
                f"{naturalsize(self.memory)} each"
            )
        return facts


def bytes_per_image(question: Question, store: Store) -> int:
    """What is read of the store for one image, before compression."""
    per_image = store.arrays["embedding"].bytes_per_row + store.arrays["ln_std"].bytes_per_row
    if any(isinstance(by, ByHeads) for by in question.methods.values()):
        per_image += store.arrays["heads"].bytes_per_row
    if question.source in ("coefficients", "norms"):
        names = ("coefficients", "peaks") if question.source == "coefficients" else ("norms",)
        for layer in question.layers:
            dtypes = {name: neurons.kept(store.url, layer)[name] for name in names}
            arrays = neurons.neuron_arrays(store.meta, layer, dtypes)
            per_image += sum(spec.bytes_per_row for spec in arrays.values())
    return per_image


def sizes(store: Store, where: str) -> tuple[int, int]:
    """Images that are ok inside of a subset and outside.

    Raises
    ------
    FacetError
        If either side has too few.
    """
    shards = sorted(store.done_shards())
    machines.settle(pace.of_pieces(len(shards)), several(len(shards), "shard"), more=True)
    counts = list(each(_sizes, shards, store.url, where))
    inside, outside = (sum(of) for of in zip(*counts, strict=True))
    refuse_few(inside, outside)
    return inside, outside


def _sizes(url: str, where: str, shard: int) -> tuple[int, int]:
    store = open_store(url)
    inside = int(shard_rows(store, shard, where)[1].sum())
    return inside, int(shard_rows(store, shard)[1].sum()) - inside


def plan(
    question: Question, store: Store, model: VisionModel | None, teller: Teller = SILENT
) -> Scan:
    """What a scan will do, and where; settled before any of it.

    Parameters
    ----------
    question : Question
    store : Store
    model : VisionModel or None
        The store's own, on the CPU; needed where the source of scores is the model.
    teller : Teller
    """
    shards = sorted(store.done_shards())
    if question.source != "model":
        seconds = pace.of_shards(store.meta, len(shards))
        machines.settle(seconds, f"{several(len(shards), 'shard')} to read", teller.say)
        need = task_bytes(question)
        refuse_memory(need, FEWER, what="a task")
        return Scan(question, store, shards, memory=need)
    assert model is not None
    images = sum(stop - start for start, stop in map(store.meta.rows, shards))
    seconds = seconds_here(store.meta, model, images, "auto")
    machines.settle(seconds, f"{several(images, 'image')} to pass", teller.say)
    texts = sum(len(by.texts) for by in question.methods.values())

    def memory(batch_size: int) -> int:
        projection = project(
            store.meta, question.layers, {}, absent={}, k=1, covariance=False,
            batch_size=batch_size, parameters=sum(p.numel() for p in model.module.parameters()),
        )  # fmt: skip
        return projection.worker + 8 * batch_size * texts

    workers = choose_workers(
        machines.resources(), "auto", None, None, shards=len(shards),
        fit=lambda batch: machines.memory() // memory(batch),
    )  # fmt: skip
    need = memory(workers.batch_size)
    refuse_memory(need, FEWER)
    return Scan(question, store, shards, model, workers, need)


def scan(of: Scan, place: str, teller: Teller = SILENT) -> Counts:
    """Counts of all images of a store.

    Parameters
    ----------
    of : Scan
    place : str
        Where the result will be: counts so far stand there until it is, and are gone on from.
    teller : Teller

    Returns
    -------
    Counts
    """
    done, counts = saved_counts.read(place)
    left = [shard for shard in of.shards if shard not in done]
    saved = time.monotonic()
    for shard, found in _counts(of, left, teller):
        done.add(shard)
        if found is not None:
            counts = found if counts is None else merge([counts, found])
        if counts is not None and time.monotonic() - saved > SAVE_SECONDS:
            saved_counts.write(place, done, counts)
            saved = time.monotonic()
    assert counts is not None  # a store without an image that is ok has no subset
    return counts


def _counts(of: Scan, left: Sequence[int], teller: Teller) -> Iterator[tuple[int, Counts | None]]:
    """Counts of shards, with a bar of images."""
    if not left:
        return
    sizes = [stop - start for start, stop in map(of.store.meta.rows, left)]
    bar = partial(teller.bar, "concepts: images", sum(sizes), "counts of a minute ago are kept")
    with bar() as move:
        move(0)
        if of.model is not None and of.workers is not None:
            yield from passed(
                of.question, of.store, of.model, of.workers, of.memory, left, move, teller.say
            )
            move(sum(sizes))
            return
        images = 0
        for size, found in zip(sizes, counted(of.question, of.store, left), strict=True):
            yield found
            images += size
            move(images)
