"""What lies nearest to queries: exact, by one pass over an index, on all cores or on Ray.

Rows stream from the index a run of shards at a time, become float32, are centred and, for the
cosine, divided by their length; one matrix product gives the scores of all queries. Each thread, or
task, keeps the best of the rows that it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from pipeline.cluster import machines
from pipeline.cluster.tasks import scan
from pipeline.subsets import parse_where
from storage import head_index
from storage.layout import ROWS_PER_IMAGE_PART, index_bytes, shards_per_run
from storage.tables import StoreTables, open_tables

from .choices import Metric, Space

# Which images may be found, (images of the store,) bool.
Chosen: TypeAlias = NDArray[np.bool_]

# Numbers of one block of rows, or of its scores: they stay in a core's cache.
BLOCK_VALUES, MOST_ROWS = 1 << 20, 4096
# What all threads hold of the index at once.
HELD = 256 << 20
# Bytes of an index that are read in a second, which disks bound.
BYTES_PER_SECOND = 5e8
# Runs of one task on Ray.
RUNS_PER_TASK = 4


@dataclass(frozen=True, eq=False)
class Queries:
    """What is searched for, in the coordinates of a space: see `Coordinates`.

    Attributes
    ----------
    vectors_qw : (Q, width) float32
        Images are not centred: a search centres them, and leaves texts as they are.
    are_texts_q : (Q,) bool
    """

    vectors_qw: NDArray[np.float32]
    are_texts_q: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The best images of every query, best first; of equal ones the first of the store.

    Attributes
    ----------
    rows_qk : (Q, K) int64
        Numbers of images; -1 where there are fewer.
    scores_qk : (Q, K) float32
        NaN where there is none.
    """

    rows_qk: NDArray[np.int64]
    scores_qk: NDArray[np.float32]


def chosen_images(store: StoreTables, where: str | None) -> Chosen | None:
    """Which images a condition takes; None where there is none, and all may be found."""
    if where is None:
        return None
    chosen = np.zeros(store.meta.images, bool)
    for start in range(0, store.meta.images, ROWS_PER_IMAGE_PART):
        rows = store.images(start, min(start + ROWS_PER_IMAGE_PART, store.meta.images))
        chosen[np.asarray(rows.filter(parse_where(where, rows.schema))["index"])] = True
    return chosen


def seconds(store: StoreTables, space: Space) -> float:
    """How long a search would take one process: see ``machines.settle``."""
    return index_bytes(store.meta, space.parts) / BYTES_PER_SECOND


def nearest(
    store: StoreTables,
    space: Space,
    queries: Queries,
    *,
    metric: Metric,
    top: int,
    chosen: Chosen | None = None,
    centred: bool = True,
    report: Callable[[int], None] = lambda images: None,
    cores: int | None = None,
) -> Nearest:
    """The images whose contributions in a space are most like the queries.

    Parameters
    ----------
    store : StoreTables
        With an index of the space.
    space : Space
    queries : Queries
    metric : {"cosine", "dot"}
        The length of a text is that of a unit row of the joint space in every part.
    top : int
    chosen : (images,) bool, optional
        Images that may be found; all unless given. Those that are not ok never are.
    centred : bool
        Whether the mean of all images that are there now is taken from images.
    report : callable
        Called with the number of images looked at so far.
    cores : int, optional
        Of this machine, where the search runs here; all unless given.

    Raises
    ------
    StoreError
        If the index lacks something, is of another store, or is damaged.
    """
    search = Search.of(store, space, queries, metric, top, centred)
    per_run = shards_per_run(store.meta) * store.meta.shard_size
    runs = range(-(-store.meta.images // per_run))
    if machines.here():
        found = search.threads(runs, chosen, report, cores)
    else:
        spans = [runs[at : at + RUNS_PER_TASK] for at in range(0, len(runs), RUNS_PER_TASK)]
        waves = []
        for count, wave in scan(_scan_runs, spans, _merge, search, chosen):
            waves.append(wave)
            report(min(store.meta.images, count * RUNS_PER_TASK * per_run))
        found = _merge(waves)
    for part, seen, count in zip(search.parts, found.seen, search.counts, strict=True):
        if seen != count:
            raise head_index.damaged(store.url, part, f"{count - seen:,} rows are lost")
    return found.nearest()


class Best:
    """The best rows of every query so far, and how many rows of every part hold values.

    Rows must come in rising order: of equal scores the first that came is kept.
    """

    def __init__(self, queries: int, top: int, parts: int) -> None:
        self.queries, self.top = queries, top
        self.seen = np.zeros(parts, np.int64)
        # What a score must be above to be kept.
        self.floor_q = np.full(queries, -np.inf, np.float32)
        self._kept: list[tuple[NDArray, NDArray, NDArray]] = []
        self._waiting = 0

    def add(self, scores_qn: NDArray[np.float32], first: int) -> None:
        """Look at scores of the images ``first …``; those of none are -inf."""
        hit = np.flatnonzero(scores_qn.max(1) > self.floor_q)
        if not len(hit):
            return
        scores = scores_qn if len(hit) == len(scores_qn) else scores_qn[hit]
        above = scores > self.floor_q[hit, None]
        if self.top < scores.shape[1] and not np.isfinite(self.floor_q).all():
            best = np.partition(scores, -self.top, axis=1)[:, -self.top]
            above &= scores >= best[:, None]
        query, row = np.nonzero(above)
        self.keep(hit[query], row + first, scores[query, row])

    def take(self, other: Best) -> None:
        """What another has kept."""
        self.seen += other.seen
        for kept in other._kept:
            self.keep(*kept)

    def keep(self, query: NDArray, row: NDArray, score: NDArray) -> None:
        """Take rows, each of a query and with a score."""
        self._kept.append((query, row, score))
        self._waiting += len(query)
        if self._waiting > 4 * self.queries * self.top + 10_000:
            self.settle()

    def settle(self) -> None:
        """Keep no more than are wanted, in order."""
        if not self._kept:
            return
        query, row, score = (np.concatenate(part) for part in zip(*self._kept, strict=True))
        order = np.lexsort((row, -score, query))
        query, row, score = query[order], row[order], score[order]
        starts = np.searchsorted(query, np.arange(self.queries))
        rank = np.arange(len(query)) - starts[query]
        full = query[rank == self.top - 1]
        self.floor_q[full] = score[rank == self.top - 1]
        keep = rank < self.top
        self._kept, self._waiting = [(query[keep], row[keep], score[keep])], 0

    def nearest(self) -> Nearest:
        """The best rows of every query, best first."""
        self.settle()
        rows = np.full((self.queries, self.top), -1, np.int64)
        scores = np.full((self.queries, self.top), np.nan, np.float32)
        for query, row, score in self._kept:
            rank = np.arange(len(query)) - np.searchsorted(query, np.arange(self.queries))[query]
            rows[query, rank], scores[query, rank] = row, score
        return Nearest(rows, scores)


@dataclass(frozen=True, eq=False)
class Search:
    """A search, ready to be scanned: all that a task has to know.

    Attributes
    ----------
    url : str
        The store.
    parts : dict of str to (unit, shift (r,) float32)
        What of the rows, as kept, is taken off, in units.
    counts : tuple of int
        Rows with values in each part.
    counted : frozenset of int
        Shards that are in the parts.
    vectors_qw : (Q, width) float32
        Queries, in the units of the rows; for the cosine, of length 1 in the coordinates' own.
    metric : {"cosine", "dot"}
    top : int
    """

    url: str
    parts: dict[str, tuple[float, NDArray[np.float32]]]
    counts: tuple[int, ...]
    counted: frozenset[int]
    vectors_qw: NDArray[np.float32]
    metric: Metric
    top: int

    @classmethod
    def of(
        cls,
        store: StoreTables,
        space: Space,
        queries: Queries,
        metric: Metric,
        top: int,
        centred: bool,
    ) -> Search:
        """See `nearest`."""
        facts = head_index.open_parts(store, space.parts)
        means = [f.mean() if centred else np.zeros(len(f.offset)) for f in facts.values()]
        vectors = queries.vectors_qw.astype(np.float64)
        vectors[~queries.are_texts_q] -= np.concatenate(means)
        if metric == "cosine":
            lengths = np.linalg.norm(vectors, axis=1)
            lengths[queries.are_texts_q] = np.sqrt(len(facts))
            vectors /= np.where(lengths > 0, lengths, 1.0)[:, None]
        units = np.concatenate([np.full(len(f.offset), f.unit) for f in facts.values()])
        shifts = {
            part: (f.unit, ((mean - np.array(f.offset)) / f.unit).astype(np.float32))
            for (part, f), mean in zip(facts.items(), means, strict=True)
        }
        counts = tuple(f.count for f in facts.values())
        counted = frozenset(next(iter(facts.values())).counted())  # as the parts are up to date
        vectors_qw = (vectors * units).astype(np.float32)
        return cls(store.url, shifts, counts, counted, vectors_qw, metric, top)

    def threads(
        self,
        runs: Sequence[int],
        chosen: Chosen | None,
        report: Callable[[int], None],
        cores: int | None = None,
    ) -> Best:
        """Scan runs on cores of this machine, on all unless it is given how many."""
        store = open_tables(self.url)
        arrays = {part: head_index.open_array(self.url, part) for part in self.parts}
        at_once = shards_per_run(store.meta)
        per_run = at_once * store.meta.shard_size
        run_bytes = 2 * per_run * self.vectors_qw.shape[1]
        count = max(1, min(cores or machines.own_cpus(), len(runs), HELD // run_bytes))
        waiting, done = iter(runs), 0

        def work(_: int) -> Best:
            nonlocal done
            best = Best(len(self.vectors_qw), self.top, len(self.parts))
            for run in waiting:  # each thread's rise
                rows, keep, start = self.read(store, arrays, run)
                stop = start + len(keep)
                best.seen += [np.isfinite(values[keep, 0]).sum() for values in rows]
                if chosen is not None:
                    keep &= chosen[start:stop]
                self.add(best, rows, keep, start)
                done += stop - start
                report(done)
            return best

        with one_thread_each(), ThreadPoolExecutor(count) as pool:
            return _merge(list(pool.map(work, range(count))))

    def read(
        self, store: StoreTables, arrays: Mapping[str, zarr.Array], run: int
    ) -> tuple[list[NDArray[np.float16]], NDArray[np.bool_], int]:
        """A run of rows of every part as they are kept, which of them count, the first's image."""
        at_once, size = shards_per_run(store.meta), store.meta.shard_size
        start = run * at_once * size
        stop = min(start + at_once * size, store.meta.images)
        rows = [
            head_index.read_rows(self.url, part, array, start, stop)
            for part, array in arrays.items()
        ]
        shards = range(run * at_once, -(-stop // size))
        counted = [shard in self.counted for shard in shards]
        return rows, np.repeat(counted, size)[: stop - start], start

    def compared(self, rows: Sequence[NDArray], block_nw: torch.Tensor) -> None:
        """Write rows as queries are compared with them: less the shift and, for the cosine, by
        their length in the coordinates' own units; NaN where there is nothing."""
        at, squares_n = 0, torch.zeros(len(block_nw))
        for values, (unit, shift) in zip(rows, self.parts.values(), strict=True):
            part_nr = block_nw[:, at : at + len(shift)]
            part_nr.copy_(torch.from_numpy(values))
            part_nr.sub_(torch.from_numpy(shift))
            if self.metric == "cosine":
                squares_n += (unit * torch.linalg.vector_norm(part_nr, dim=1)) ** 2
            at += len(shift)
        if self.metric == "cosine":
            lengths_n = squares_n.sqrt()
            block_nw.div_(torch.where(lengths_n == 0, 1.0, lengths_n)[:, None])

    def add(self, best: Best, rows: Sequence[NDArray], keep: NDArray, start: int) -> None:
        """Look at a run of rows, of every part; only those to ``keep`` may be found."""
        vectors_qw = torch.from_numpy(self.vectors_qw)
        step = BLOCK_VALUES // max(vectors_qw.shape)
        step = max(64, min(MOST_ROWS, step))
        buffer = torch.empty(step, vectors_qw.shape[1])
        for first in range(0, len(keep), step):
            kept = keep[first : first + step]
            if not kept.any():
                continue
            block_nw = buffer[: len(kept)]
            self.compared([values[first : first + step] for values in rows], block_nw)
            scores_qn = vectors_qw @ block_nw.T
            lost = ~kept | torch.isnan(block_nw[:, 0]).numpy()
            if lost.any():
                scores_qn[:, torch.from_numpy(lost)] = -torch.inf
            best.add(scores_qn.numpy(), start + first)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Threads that share the cores: torch's own would stand in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scan_runs(search: Search, chosen: Chosen | None, runs: Sequence[int]) -> Best:
    return search.threads(runs, chosen, lambda done: None)


def _merge(states: Sequence[Best]) -> Best:
    total = Best(states[0].queries, states[0].top, len(states[0].seen))
    for state in states:
        total.take(state)
    total.settle()
    return total
