"""The one loop over shards: work objects to workers, on Ray or in this process."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

from . import logs, machines
from .work import IN_HAND, Item, Report, Value, Work

Steps = Generator[tuple[Item, Report[Value]] | int, None, None]


@contextmanager
def over_shards(
    work: Work[Item, Value],
    items: Sequence[Item],
    size: int,
    *,
    in_order: bool = False,
    report: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = print,
) -> Iterator[Iterator[Report[Value]]]:
    """Have workers do the items; they end with the block, however it ends.

    Parameters
    ----------
    work : Work
    items : sequence of Item
        Each once.
    size : int
        Workers wanted.
    in_order : bool
        Whether reports are given out in the order of the items, or as they come.
    report : callable
        Told the images computed, about twice a second.
    say : callable
        Told what a worker asks Ray for and, while the cluster cannot give it, what is waited for.

    Yields
    ------
    iterator of Report
        One an item.

    Raises
    ------
    FacetError
        Whatever a worker found wrong that the user can mend; if workers cannot start or die again
        and again; if there is no GPU, one was asked for, and none can come.
    """
    if work.needs.gpus:
        machines.check_device("cuda")
    counted = _Counted(sum(map(work.images, items)), report)
    with closing(_started(work, items, min(size, len(items)), counted, say)) as steps:
        done: Iterator[tuple[Item, Report[Value]]] = _reports(steps, counted)
        yield _ordered(items, done) if in_order else (finished for _, finished in done)


class _Counted:
    """Images computed: never fewer, though what a dead worker had half done is done anew."""

    def __init__(self, total: int, report: Callable[[int], None]) -> None:
        self.total, self.most, self.report = total, 0, report

    def __call__(self, images: int) -> None:
        self.most = min(max(self.most, images), self.total)
        self.report(self.most)


def _started(
    work: Work[Item, Value],
    items: Sequence[Item],
    size: int,
    counted: _Counted,
    say: Callable[[str], None],
) -> Steps:
    if machines.here():
        return _here(work, items, counted)
    from .crew import Crew  # Ray takes seconds to import

    say(f"each of {size} workers asks Ray for {work.needs}")
    return Crew(work, size, say).work(items)


def _reports(steps: Steps, counted: _Counted) -> Iterator[tuple[Item, Report[Value]]]:
    """What is finished, item by item; logged, and the images counted."""
    for step in steps:
        if isinstance(step, int):
            counted(step)
            continue
        item, finished = step
        logs.event(
            "shard finished",
            shard=finished.shard,
            images=finished.images,
            bad=finished.bad,
            bytes=finished.bytes,
            compute_seconds=round(finished.compute_seconds, 3),
            write_seconds=round(finished.write_seconds, 3),
            done_on=finished.node,
        )
        yield item, finished
    counted(counted.total)


def _ordered(
    items: Iterable[Item], done: Iterator[tuple[Item, Report[Value]]]
) -> Iterator[Report[Value]]:
    """Reports in the order of their items; those that come early are held."""
    early: dict[Item, Report[Value]] = {}
    for item in items:
        while item not in early:
            early.update([next(done)])
        yield early.pop(item)
    for _ in done:  # what comes after the last report is told, too
        pass


def _here(work: Work[Item, Value], items: Iterable[Item], counted: _Counted) -> Steps:
    """Do the items one after the other; pictures are decoded in a thread meanwhile."""
    # As a worker elsewhere has a copy, so that the driver's own model is left as it is.
    worker = copy.deepcopy(work).start()

    def ahead(calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        pending: deque[Future[Any]] = deque()
        for call in calls:
            pending.append(pool.submit(*call))
            if len(pending) > IN_HAND:
                yield pending.popleft().result()
                counted(worker.progress())
        while pending:
            yield pending.popleft().result()
            counted(worker.progress())

    with ThreadPoolExecutor(1) as pool:
        for item in items:
            yield item, worker.do(item, ahead(work.ahead(item)))
