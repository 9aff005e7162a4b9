"""Ray actors that work off items, such as the shards of a store: hired as the cluster has room,
replaced when they or their nodes die.

Items go only to actors that have started. An item whose actor died goes back to the queue, for
any other: nothing waits for a node that never returns, and a cluster that grows gets more actors.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, RuntimeEnvSetupError

from storage.errors import FacetError

from . import logs, machines, metrics
from .work import DECODE_CPUS, RETRIES, Item, Report, Value, Work, Worker, amounts

SECONDS_TO_WAIT = 15 * 60.0
SECONDS_BEFORE_SAYING = 10.0
SECONDS_BETWEEN_SAYING = 60.0
POLL = 0.5
# On the nodes that have room, instead of filling one after the other.
SPREAD = "SPREAD"
# Of Ray's shared memory, what decoded pictures may fill: beyond it Ray writes to disk.
PICTURES = 0.5


class _Actor:
    """A worker as Ray calls it; the work comes with every item, so that a new actor has it."""

    def __init__(self, job: str) -> None:
        logs.start(job, worker=True)
        logs.event("actor started")
        self._starting = threading.Lock()
        self._worker: Worker[Any, Any] | None = None

    def ready(self) -> None:
        """Returns once the actor runs."""

    def do(self, item: Any, work: list[ray.ObjectRef], ahead: list[ray.ObjectRef]) -> Report[Any]:
        # Inside a list, references are not fetched before the call; from other nodes pictures come
        # from here on, and not one batch after the other as they are asked for.
        if ahead:
            ray.wait(ahead, num_returns=len(ahead), timeout=0)
        with self._starting:
            if self._worker is None:
                self._worker = ray.get(work[0]).start()
        report = self._worker.do(item, (ray.get(ref) for ref in ahead))
        metrics.count_shard(report)
        return report

    def progress(self) -> int:
        return 0 if self._worker is None else self._worker.progress()


@dataclass
class _Member:
    actor: Any
    started: bool = False
    load: int = 0  # shards handed to it and not back
    finished: int = 0  # images of the shards that are back
    heard: int = 0  # images computed since it was made, as it last said


@dataclass
class Crew(Generic[Item, Value]):
    """Actors and the items they have still to do.

    Attributes
    ----------
    todo : Work
    size : int
        Actors wanted. Fewer run while the cluster has no room for more.
    say : callable
        Told, now and then, what the crew waits for.
    """

    todo: Work[Item, Value]
    size: int
    say: Callable[[str], None]
    _members: list[_Member] = field(default_factory=list)
    _starting: dict[Any, _Member] = field(default_factory=dict)
    _under_way: dict[Any, tuple[_Member, Item]] = field(default_factory=dict)
    _queue: deque[Item] = field(default_factory=deque)
    _pictures: dict[Item, list[Any]] = field(default_factory=dict)  # of items still queued
    _slots: float = 0.0  # decoding tasks that run at once
    _room: float = 0.0  # bytes for decoded pictures
    _lost: Counter[Item] = field(default_factory=Counter)
    _false_starts: int = 0
    _gone: int = 0  # images finished by members that are gone

    def __post_init__(self) -> None:
        self.needs = self.todo.needs
        self._actor = ray.remote(_Actor)
        self._work = ray.put(self.todo)
        self._tasks: dict[Callable[..., Any], Any] = {}

    def work(
        self, items: Iterable[Item]
    ) -> Generator[tuple[Item, Report[Value]] | int, None, None]:
        """Do the items; yield them with their reports and, twice a second, the images computed.

        Raises
        ------
        FacetError
            What an actor found wrong that the user can mend; if actors cannot start, die again
            and again, or if the cluster had no room for a single one for a quarter of an hour.
        """
        self._queue.extend(items)
        self._idle_since, self._say_at = time.monotonic(), time.monotonic() + SECONDS_BEFORE_SAYING
        asked = 0.0
        try:
            while self._queue or self._under_way:
                if time.monotonic() - asked >= POLL:
                    self._measure()
                self._hire_missing()
                self._fill()
                for ref in self._ready():
                    if ref in self._starting:
                        self._arrive(ref)
                        continue
                    _, item = self._under_way[ref]
                    report = self._collect(ref)
                    self._fill()
                    if report is not None:
                        yield item, report
                self._wait_with_words()
                metrics.show_queue(len(self._queue), len(self._under_way))
                if time.monotonic() - asked >= POLL:
                    asked = time.monotonic()
                    yield self._computed()
        finally:
            for member in self._members:
                ray.kill(member.actor)
            for ref in chain.from_iterable(self._pictures.values()):
                ray.cancel(ref)

    def _ready(self) -> list[Any]:
        refs = [*self._starting, *self._under_way]
        if not refs:
            time.sleep(POLL)
            return []
        ray.wait(refs, num_returns=1, timeout=POLL)
        return ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def _hire_missing(self) -> None:
        # The first is asked for whatever the cluster has: an autoscaler sees what is wanted.
        while (
            self._queue
            and len(self._members) < self.size
            and (not self._members or self._room_for(len(self._members) + 1))
        ):
            # One slot more than items, for progress().
            slots = {"max_concurrency": self.todo.in_hand + 1, "scheduling_strategy": SPREAD}
            options = self.needs.options() | slots
            member = _Member(self._actor.options(**options).remote(logs.job()))
            self._members.append(member)
            self._starting[member.actor.ready.remote()] = member

    def _room_for(self, members: int) -> bool:
        """Whether this many actors leave CPUs to decode their pictures with."""
        return machines.resources()["CPU"] >= members * self.needs.cpus + DECODE_CPUS

    def _arrive(self, ref: Any) -> None:
        member = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            failed = isinstance(error, (RayTaskError, RuntimeEnvSetupError))
            if failed or (isinstance(error, RayActorError) and error.actor_init_failed):
                raise FacetError(
                    f"a worker cannot start: {error}\n"
                    "Every node needs the environment that this job runs in."
                ) from None
            self._dismiss(member)
            self._false_starts += 1
            if self._false_starts > RETRIES:
                raise FacetError(
                    f"{self._false_starts} workers died while starting: {error}"
                ) from None
            return
        # A node may have died since it was asked for.
        if self._running() and not self._room_for(self._running() + 1):
            self._dismiss(member)
            return
        member.started, self._false_starts = True, 0

    def _fill(self) -> None:
        started = [member for member in self._members if member.started]
        for load in range(self.todo.in_hand):
            for member in started:
                if member.load == load and self._queue:
                    item = self._queue.popleft()
                    self._under_way[self._hand_out(member, item)] = (member, item)
                    member.load += 1
        if started:
            self._decode_ahead()

    def _hand_out(self, member: _Member, item: Item) -> Any:
        ahead = self._pictures.pop(item, None) or self._decode(item)
        return member.actor.do.remote(item, [self._work], ahead)

    def _decode(self, item: Item) -> list[Any]:
        return [self._task(call).remote(*given) for call, *given in self.todo.ahead(item)]

    def _decode_ahead(self) -> None:
        """Have pictures of the next items decoded: as many tasks more than those of items in hand
        as the cluster runs at once, so that no CPU waits while a worker does, as far as shared
        memory holds them."""
        tasks = sum(map(len, self._pictures.values()))
        in_hand = (item for _, item in self._under_way.values())
        held = sum(map(self.todo.decoded_bytes, (*in_hand, *self._pictures)))
        for item in self._queue:
            if item in self._pictures:
                continue
            held += self.todo.decoded_bytes(item)
            if tasks >= self._slots or held > self._room:
                return
            self._pictures[item] = self._decode(item)
            tasks += max(1, len(self._pictures[item]))

    def _measure(self) -> None:
        self._slots = machines.resources()["CPU"] / DECODE_CPUS
        self._room = PICTURES * machines.shared_memory()

    def _task(self, function: Callable[..., Any]) -> Any:
        if function not in self._tasks:
            self._tasks[function] = ray.remote(function).options(
                num_cpus=DECODE_CPUS, max_retries=RETRIES, scheduling_strategy=SPREAD
            )
        return self._tasks[function]

    def _collect(self, ref: Any) -> Report[Value] | None:
        """The report of a finished item; None if its actor died and it has to be done again."""
        member, item = self._under_way.pop(ref)
        member.load -= 1
        try:
            report: Report[Value] | None = ray.get(ref)
            member.finished += self.todo.images(item)
            return report
        except RayTaskError as error:
            cause: Any = error
            while isinstance(cause, RayTaskError):
                cause = cause.cause
            if isinstance(cause, FacetError):
                raise cause from None
            if not isinstance(cause, RayError):
                raise
            reason: RayError = cause  # pictures, or a decoding task, were lost with their node
        except RayError as error:
            self._dismiss(member)
            reason = error
        report = self.todo.recover(item)
        if report is not None:
            self._gone += self.todo.images(item)
            return report
        self._lost[item] += 1
        metrics.count_retry()
        shard = self.todo.shard(item)
        logs.event("shard lost", level=logging.WARNING, shard=shard, reason=str(reason))
        if self._lost[item] > RETRIES:
            raise FacetError(
                f"a worker died {RETRIES + 1} times over on the same work: {reason}\n"
                "It is probably out of memory: lower `batch_size`, `shard_size` or `num_actors`. "
                "What was finished is kept; the same command goes on from it."
            )
        self._queue.appendleft(item)
        return None

    def _dismiss(self, member: _Member) -> None:
        if member not in self._members:
            return
        self._members.remove(member)
        self._gone += member.finished
        member.started = False
        with contextlib.suppress(RayError):
            ray.kill(member.actor)

    def _running(self) -> int:
        return sum(member.started for member in self._members)

    def _computed(self) -> int:
        """Images computed, of finished shards and of those in hand."""
        asked = {m.actor.progress.remote(): m for m in self._members if m.started}
        if asked:
            for ref in ray.wait(list(asked), num_returns=len(asked), timeout=1.0)[0]:
                with contextlib.suppress(RayError):  # it has just died
                    asked[ref].heard = ray.get(ref)
        return self._gone + sum(max(m.heard, m.finished) for m in self._members)

    def _wait_with_words(self) -> None:
        now, running = time.monotonic(), self._running()
        if running:
            self._idle_since = now
        if running >= self.size or not self._queue:
            self._say_at = now + SECONDS_BEFORE_SAYING
            return
        if not running and not machines.joined() and not machines.resources()["CPU"]:
            raise machines.died(RayError("no node is left"))
        if now - self._idle_since > SECONDS_TO_WAIT:
            raise FacetError(
                f"no worker could start in {SECONDS_TO_WAIT / 60:.0f} minutes: each needs "
                f"{self.needs}, the cluster has {_free()} free. Add nodes, wait for other jobs to "
                "end, or choose a smaller `batch_size`, or another `device`"
            )
        if now < self._say_at:
            return
        self._say_at = now + SECONDS_BETWEEN_SAYING if not running else float("inf")
        self.say(
            f"{running} of {self.size} workers run; the next is starting, or waits for "
            f"{self.needs}: the cluster has {_free()} free (Ctrl-C stops)"
        )


def _free() -> str:
    free = machines.free()
    return amounts(free["CPU"], free["GPU"], int(free["memory"]), every=True)
