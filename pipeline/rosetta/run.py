"""The Ray side: actors that hold the models, tasks that decode ahead and merge, one driver.

The driver hands out shards whose sums are lacking. Sums of ``FAN_IN`` neighbouring shards are
merged as soon as they are there, in an order that does not depend on who was first; a killed run
goes on and ends in the same numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from pipeline.cluster.crew import ACTOR_CPUS, DECODE_CPUS, RETRIES, Crew, Needs
from pipeline.extraction.run import SPREAD, TooManyBadImages, Workers
from pipeline.images.bad import BadImages
from pipeline.images.resize import Resize
from storage import ledger
from storage.errors import FacetError
from storage.rosetta import (
    Card,
    Setup,
    Span,
    Tile,
    complete_group,
    correlated,
    create_correlations,
    done_spans,
    outermost,
    remove_spans,
)

from .merging import correlate_tile, merge_spans
from .mine import ItemReport, Miner
from .models import UnitModel
from .pictures import load_pictures
from .plan import Item, actor_bytes, covered, items

# Items an actor has: one under way, and one whose pictures are being decoded.
IN_FLIGHT = 2


class _Actor:
    """A miner as Ray calls it; the models come with the work, so that a restarted one has them."""

    def __init__(self, url: str, device: str, threads: int) -> None:
        self._make = partial(Miner, url, device=device, threads=threads)
        self._turn = threading.Lock()
        self._miner: Miner | None = None

    def ready(self) -> None:
        """Returns once the actor runs."""

    def mine(self, item: Item, models: list[Any], batches: list[Any]) -> ItemReport:
        with self._turn:
            if self._miner is None:
                self._miner = self._make(ray.get(models[0]))
            given = (b if isinstance(b, range) else ray.get(b) for b in batches)
            return self._miner.mine(item, given)

    def progress(self) -> int:
        return 0 if self._miner is None else self._miner.progress()


def left_over(url: str, wanted: Iterable[Tile]) -> dict[Tile, set[int]]:
    """Shards that are summed, of every tile; what a killed merge left behind is removed."""
    done = {}
    for tile in wanted:
        spans = done_spans(url, tile)
        remove_spans(url, tile, spans - set(outermost(spans)))
        done[tile] = covered(spans)
    return done


def mine(
    url: str,
    setup: Setup,
    models: Mapping[str, UnitModel],
    wanted: Iterable[Tile],
    workers: Workers,
    hold: int,
    *,
    max_bad: float,
    report: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = print,
) -> BadImages:
    """Sum what is lacking of the wanted tiles.

    Parameters
    ----------
    models : dict of str to UnitModel
        By slug.
    hold : int
        Most bytes of one actor's sums.
    max_bad : float
        Fraction of the images that may be bad.
    report : callable
        Called with the images that went through the models in this run.
    say : callable
        Told what the actors ask Ray for, and what is waited for.

    Raises
    ------
    TooManyBadImages
        When ``max_bad`` is passed; the sums made are kept.
    FacetError
        Whatever an actor found wrong that the user can mend.
    """
    cards = {slug: model.card for slug, model in models.items()}
    done = left_over(url, wanted)
    seen = ledger.done_shards(url)
    bad = BadImages()
    for facts in ledger.read_facts(url, sorted(seen)):
        bad.add(facts)
    _check_bad(bad, setup, max_bad)
    work = items(done, setup, cards, hold)
    merges = _Merges(url, done, cards)
    if work:
        crew = _crew(url, setup, models, workers, hold, work, say)
        steps = crew.work(range(len(work)), lambda number: _images(setup, work[number]))
        with closing(steps):  # ends the actors, however this ends
            for finished in steps:
                if isinstance(finished, ItemReport):
                    if finished.item.shard not in seen:  # one shard has several items
                        seen.add(finished.item.shard)
                        bad.add(finished.facts)
                    _check_bad(bad, setup, max_bad)
                    for tile in finished.item.tiles:
                        merges.add(tile, (finished.item.shard, finished.item.shard))
                else:
                    report(finished)
                merges.collect()
        report(sum(_images(setup, item) for item in work))
    merges.finish()
    return bad


def _images(setup: Setup, item: Item) -> int:
    start, stop = setup.rows(item.shard)
    return stop - start


def _crew(
    url: str,
    setup: Setup,
    models: Mapping[str, UnitModel],
    workers: Workers,
    hold: int,
    work: list[Item],
    say: Callable[[str], None],
) -> Crew[ItemReport]:
    size = min(workers.actors, len(work))
    needs = Needs(ACTOR_CPUS, int(workers.device == "cuda"), need_bytes(models, workers, hold))
    say(f"each of {size} workers asks Ray for {needs}")
    actor_class = ray.remote(_Actor)
    decode = ray.remote(load_pictures).options(
        num_cpus=DECODE_CPUS, max_retries=RETRIES, scheduling_strategy=SPREAD
    )
    weights = ray.put(dict(models))

    def hire(options: dict[str, Any]) -> Any:
        options |= {"max_concurrency": IN_FLIGHT + 1, "scheduling_strategy": SPREAD}
        return actor_class.options(**options).remote(url, workers.device, workers.threads)

    def hand_out(actor: Any, number: int) -> Any:
        start, stop = setup.rows(work[number].shard)
        step = workers.batch_size
        batches: list[Any] = [range(at, min(at + step, stop)) for at in range(start, stop, step)]
        if setup.generator is None:
            sizes = _resizes(models, work[number])
            batches = [decode.remote(url, run.start, run.stop, sizes) for run in batches]
        return actor.mine.remote(work[number], [weights], batches)

    def recover(number: int) -> ItemReport | None:
        item = work[number]
        if not all(item.shard in covered(done_spans(url, tile)) for tile in item.tiles):
            return None
        (facts,) = ledger.read_facts(url, [item.shard])
        return ItemReport(item, _images(setup, item), facts)

    return Crew(hire, hand_out, recover, size=size, slots=IN_FLIGHT, needs=needs, say=say)


def need_bytes(models: Mapping[str, UnitModel], workers: Workers, hold: int) -> int:
    """What one actor will need."""
    weights = sum(p.numel() for m in models.values() for p in m.module.parameters())
    return actor_bytes([m.card for m in models.values()], workers.batch_size, weights, hold)


def _resizes(models: Mapping[str, UnitModel], item: Item) -> tuple[Resize, ...]:
    used = [models[slug].preprocess for slug in sorted(item.models)]
    return tuple(dict.fromkeys(p.resize for p in used if p is not None))


def _check_bad(bad: BadImages, setup: Setup, max_bad: float) -> None:
    if bad.total() <= max_bad * setup.images:
        return
    raise TooManyBadImages(
        f"{bad.total()} of {setup.images} images are bad, more than `max_bad` {max_bad:g} "
        f"allows:\n{bad.lines()}\nThe sums made are kept and the ledger names every image. Mend "
        "the images and use a new `out`, or run again with a larger `max_bad`."
    )


# -- merging -------------------------------------------------------------------------------


class _Merges:
    """Merges of aligned groups of spans, as tasks that take a CPU each."""

    def __init__(self, url: str, done: Mapping[Tile, set[int]], cards: dict[str, Card]) -> None:
        self._url, self._cards = url, cards
        self._spans = {tile: set(done_spans(url, tile)) for tile in done}
        self._merge = ray.remote(merge_spans).options(num_cpus=1, max_retries=RETRIES)
        self._under_way: dict[Any, tuple[Tile, list[Span]]] = {}
        for tile, spans in self._spans.items():
            for span in sorted(spans):
                self._start(tile, span)

    def add(self, tile: Tile, span: Span) -> None:
        """A span's sums are there."""
        self._spans[tile].add(span)
        self._start(tile, span)

    def _start(self, tile: Tile, span: Span) -> None:
        group = complete_group(self._spans[tile], span)
        if not group or any((tile, group) == taken for taken in self._under_way.values()):
            return
        cards = self._cards[tile.a], self._cards[tile.b]
        self._under_way[self._merge.remote(self._url, *cards, tile, group)] = tile, group

    def collect(self, timeout: float = 0.0) -> None:
        """Take note of merges that have ended."""
        if not self._under_way:
            return
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout)
        for ref in ready:
            _result(ref)
            tile, group = self._under_way.pop(ref)
            self._spans[tile] -= set(group)
            self.add(tile, (group[0][0], group[-1][1]))

    def finish(self) -> None:
        """Wait until nothing is left to merge."""
        while self._under_way:
            self.collect(timeout=1.0)


# -- correlations --------------------------------------------------------------------------


def correlate(
    url: str,
    cards: Mapping[str, Card],
    wanted: list[Tile],
    report: Callable[[int], None] = lambda tiles: None,
) -> None:
    """Write the correlations of every wanted tile, one task a tile."""
    todo = [tile for tile in wanted if not correlated(url, tile)]
    for pair in dict.fromkeys((tile.a, tile.b) for tile in todo):
        # A pair is made whole or not at all: its arrays are created anew.
        if all(tile in todo for tile in wanted if (tile.a, tile.b) == pair):
            create_correlations(url, cards[pair[0]], cards[pair[1]])
    tasks = [(url, cards[tile.a], cards[tile.b], tile) for tile in todo]
    for done, _ in enumerate(on_cluster(correlate_tile, tasks), start=1):
        report(done)


def on_cluster(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Run a function over many arguments as tasks; results as they come, few held at once."""
    remote = ray.remote(function).options(num_cpus=1, max_retries=RETRIES)
    window = max(1, int(ray.cluster_resources().get("CPU", 1)))
    queue = iter(tasks)
    under_way: set[Any] = set()
    try:
        while True:
            while len(under_way) < window and (task := next(queue, None)) is not None:
                under_way.add(remote.remote(*task))
            if not under_way:
                return
            (ready,), _ = ray.wait(list(under_way), num_returns=1)
            under_way.remove(ready)
            yield _result(ready)
    finally:
        for ref in under_way:
            ray.cancel(ref)


def _result(ref: Any) -> Any:
    """What a task returned; its failure in words that a user can act upon."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise FacetError(
            f"a worker died again and again: {error}\nIt is probably out of memory; what is done "
            "is kept, the same command goes on."
        ) from error
