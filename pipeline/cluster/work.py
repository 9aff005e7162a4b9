"""What is done shard by shard, said so that any worker can do it; no Ray, no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from humanize import naturalsize

from storage.errors import FacetError

from . import machines

# Items that a worker has in hand: one under way, and one whose pictures are decoded or whose
# arrays are written meanwhile.
IN_HAND = 2
# A GPU is done with a shard before it is written: several are written at once.
IN_HAND_GPU = 4
# A worker that waits for pictures keeps its CPUs, also from the tasks that decode them, and
# workers of several jobs meet on one cluster: they must leave room to decode, or all wait for ever.
WORKER_CPUS = 0.1
DECODE_CPUS = 0.5
# How often what died is done again.
RETRIES = 5
# What a worker's process takes before it has a model: 470 MB on import of torch, Ray, Arrow and
# zarr, and the buffers that they keep once they have worked. With it workers of every kind take
# from 1/1.4 of what is projected to all of it (`tests/cluster/test_memory.py`).
LIBRARIES = 700_000_000

Item = TypeVar("Item", bound=Hashable)
Given = TypeVar("Given", contravariant=True)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Workers:
    """What runs the model.

    Attributes
    ----------
    device : str
        ``cpu`` or ``cuda``.
    actors : int
    threads : int
        Torch's threads in one of them.
    batch_size : int
        Images in one forward pass.
    """

    device: str
    actors: int
    threads: int
    batch_size: int

    @property
    def in_hand(self) -> int:
        """Shards that one of them has in hand, if it writes them."""
        return IN_HAND_GPU if self.device == "cuda" else IN_HAND


@dataclass(frozen=True)
class Needs:
    """What a worker or a task takes.

    Attributes
    ----------
    cpus, gpus : float
    memory : int
        Bytes; Ray places workers so that a node's memory is not promised twice.
    """

    cpus: float
    gpus: float = 0
    memory: int = 0

    def __str__(self) -> str:
        return amounts(self.cpus, self.gpus, self.memory)

    def options(self) -> dict[str, Any]:
        """The same in Ray's words."""
        wanted = {"num_gpus": self.gpus, "memory": self.memory}
        return {"num_cpus": self.cpus} | {name: n for name, n in wanted.items() if n}


@dataclass(frozen=True)
class Report(Generic[Value]):
    """What the driver learns of an item that is done.

    Attributes
    ----------
    shard, images : int
    facts : dict
        What the ledger keeps of the shard: ``bad``, how many images were bad, by kind, and
        ``bad_named``, the first few of each; of extraction ``residual`` and ``rounding``, too.
    bytes : int
        Written, before compression.
    compute_seconds, write_seconds : float
        The first includes waiting for decoded pictures.
    node : str
        Where it was done.
    value
        What was found, of work that hands something back.
    """

    shard: int
    images: int
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    bytes: int = 0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0
    node: str = ""
    value: Value | None = None

    @property
    def bad(self) -> dict[str, int]:
        """How many images were bad, by kind."""
        return self.facts.get("bad", {})


class Worker(Protocol[Given, Value]):
    """What does the items: it owns a model, and is made once on each worker."""

    def do(self, item: Given, batches: Iterable[Any]) -> Report[Value]:
        """Do an item, given what `Work.ahead` asked for; called from `Work.in_hand` threads."""

    def progress(self) -> int:
        """Images computed since it was made."""


class Work(ABC, Generic[Item, Value]):
    """What is to be done: a plain object, of which each worker gets a copy, its model with it."""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What one worker takes."""

    @property
    def in_hand(self) -> int:
        """Items that a worker has in hand."""
        return IN_HAND

    @abstractmethod
    def start(self) -> Worker[Item, Value]:
        """On a worker: make what does the items."""

    @abstractmethod
    def ahead(self, item: Item) -> Sequence[tuple[Any, ...]]:
        """Functions with their arguments, in order, whose results the item is made from.

        They are called elsewhere and before: pictures are decoded while others are computed.
        """

    @abstractmethod
    def shard(self, item: Item) -> int:
        """The item's shard."""

    @abstractmethod
    def images(self, item: Item) -> int:
        """How many images an item has."""

    def decoded_bytes(self, item: Item) -> int:
        """Bytes of what `ahead` gives for an item; 0 where they are next to nothing."""
        return 0

    def recover(self, item: Item) -> Report[Value] | None:
        """The report of an item whose worker died, if it had been finished all the same."""
        return None  # what is handed back, and kept nowhere, is lost with its worker


def choose_workers(
    cluster: dict[str, float],
    device: str,
    actors: int | None,
    batch_size: int | None,
    *,
    shards: int,
    fit: Callable[[int], int],
) -> Workers:
    """Fill in what the user left to us: one worker a GPU, or one a CPU; in this process, one.

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
        How many workers the cluster's memory holds, given the batch size.

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
    if machines.here():
        actors = 1
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda":
        return Workers(device, actors or max(1, gpus), 1, batch_size or 256)
    batch_size = batch_size or 32
    # Single threads do not wait for each other: two actors outrun one with two threads.
    count = min(actors or max(1, min(cpus, fit(batch_size))), shards)
    return Workers(device, count, max(1, cpus // count), batch_size)


def amounts(cpus: float, gpus: float, memory: int, *, every: bool = False) -> str:
    """CPUs, GPUs and memory in words; those of which there is none only if ``every`` is wanted."""
    parts = [f"{cpus:g} CPU"] if cpus or every else []
    parts += [f"{gpus:g} GPU"] if gpus or every else []
    return ", ".join(parts) + f" and {naturalsize(memory)} of memory"
