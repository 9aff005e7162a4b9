"""What of shared units is lacking, done: shards to sums, sums to fewer sums, and correlations.

Shards whose sums are lacking go to workers that hold the models. Sums of ``FAN_IN`` neighbouring
shards are merged as soon as they are there, in an order that does not depend on who was first; a
killed run goes on and ends in the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cluster.loop import over_shards
from pipeline.cluster.tasks import Tasks, each
from pipeline.cluster.work import WORKER_CPUS, Needs, Report, Work, Workers
from pipeline.images.bad import BadImages, TooManyBadImages
from pipeline.images.resize import Resize
from storage import ledger
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
from .mine import Miner
from .models import UnitModel
from .pictures import read_pictures, seeds
from .plan import Item, actor_bytes, covered, items


@dataclass(frozen=True, eq=False)
class Mining(Work[Item, tuple[Tile, ...]]):
    """Shards of images whose tiles are to be summed.

    Attributes
    ----------
    url : str
    setup : Setup
    models : dict of str to UnitModel
        By slug, on the CPU.
    workers : Workers
    hold : int
        Most bytes of one worker's sums.
    """

    url: str
    setup: Setup
    models: Mapping[str, UnitModel]
    workers: Workers
    hold: int

    @property
    def needs(self) -> Needs:
        """A GPU of its own if it uses one, and its projected memory."""
        memory = need_bytes(self.models, self.workers, self.hold)
        return Needs(WORKER_CPUS, int(self.workers.device == "cuda"), memory)

    def start(self) -> Miner:
        """The models, in place."""
        return Miner(self.url, self.models, self.workers.device, self.workers.threads)

    def ahead(self, item: Item) -> list[tuple[Any, ...]]:
        """The shard's pictures, decoded for every model that is used; or seeds of some."""
        start, stop = self.setup.rows(item.shard)
        step = self.workers.batch_size
        rows = [(first, min(first + step, stop)) for first in range(start, stop, step)]
        if self.setup.generator is not None:
            return [(seeds, *row) for row in rows]
        sizes = _resizes(self.models, item)
        return [(read_pictures, self.url, *row, sizes) for row in rows]

    def shard(self, item: Item) -> int:
        """The item's."""
        return item.shard

    def images(self, item: Item) -> int:
        """How many the shard has."""
        start, stop = self.setup.rows(item.shard)
        return stop - start

    def decoded_bytes(self, item: Item) -> int:
        """Of its pictures, for every model; of seeds next to nothing."""
        if self.setup.generator is not None:
            return 0
        areas = sum(r.height * r.width for r in _resizes(self.models, item))
        return self.images(item) * 3 * areas

    def recover(self, item: Item) -> Report[tuple[Tile, ...]] | None:
        """From the ledger, where all sums are there."""
        if not all(item.shard in covered(done_spans(self.url, tile)) for tile in item.tiles):
            return None
        (facts,) = ledger.read_facts(self.url, [item.shard])
        return Report(item.shard, self.images(item), facts, value=item.tiles)


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
        Most bytes of one worker's sums.
    max_bad : float
        Fraction of the images that may be bad.
    report, say : callable
        As ``over_shards`` has them.

    Raises
    ------
    TooManyBadImages
        When ``max_bad`` is passed; the sums made are kept.
    FacetError
        As ``over_shards`` does.
    """
    cards = {slug: model.card for slug, model in models.items()}
    done = left_over(url, wanted)
    seen = ledger.done_shards(url)
    bad = BadImages()
    for facts in ledger.read_facts(url, sorted(seen)):
        bad.add(facts)
    _check_bad(bad, setup, max_bad)
    todo = items(done, setup, cards, hold)
    work = Mining(url, setup, models, workers, hold)
    with Tasks() as tasks:
        merges = _Merges(url, done, cards, tasks)
        if todo:
            with over_shards(work, todo, workers.actors, report=report, say=say) as finished:
                for item in finished:
                    if item.shard not in seen:  # one shard has several items
                        seen.add(item.shard)
                        bad.add(item.facts)
                    _check_bad(bad, setup, max_bad)
                    for tile in item.value or ():
                        merges.add(tile, (item.shard, item.shard))
                    merges.collect()
        merges.finish()
    return bad


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
    """Merges of aligned groups of spans, as tasks."""

    def __init__(
        self, url: str, done: Mapping[Tile, set[int]], cards: dict[str, Card], tasks: Tasks
    ) -> None:
        self._url, self._cards, self._tasks = url, cards, tasks
        self._spans = {tile: set(done_spans(url, tile)) for tile in done}
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
        merge = self._tasks.start(merge_spans, self._url, *cards, tile, group)
        self._under_way[merge] = tile, group

    def collect(self, timeout: float = 0.0) -> None:
        """Take note of merges that have ended."""
        for merge in self._tasks.ended(self._under_way, timeout):
            self._tasks.result(merge)
            tile, group = self._under_way.pop(merge)
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
    pairs = ((tile, cards[tile.a], cards[tile.b]) for tile in todo)
    for done, _ in enumerate(each(_correlate, pairs, url), start=1):
        report(done)


def _correlate(url: str, of: tuple[Tile, Card, Card]) -> None:
    tile, a, b = of
    correlate_tile(url, a, b, tile)
