"""The index of a store, made by one scan of its contributions.

A task reads a run of shards, whose rows are one chunk of the index, turns them into coordinates,
and writes the chunk of every part that lacks them. What is done is noted now and then, part by
part: a stopped build goes on from there, and of a store that has grown only new shards are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster.tasks import each
from pipeline.subsets import spread
from storage import arrays, head_index, ledger, urls
from storage.head_index import PartFacts
from storage.layout import (
    CONTRIBUTIONS,
    EMBEDDING,
    HEADS,
    INDEX,
    part_numbers,
)
from storage.store import Store, open_store

from .choices import Space, refuse_parts
from .coordinates import Coordinates

# What offset and unit of a part are found from, when it is made: shards, and images of each.
LOOKED_AT, IMAGES_LOOKED_AT = 8, 512
SECONDS_BETWEEN_NOTES = 10.0


@dataclass(frozen=True)
class Lacking:
    """Parts that lack the same shards, and are cut alike.

    Attributes
    ----------
    parts : tuple of str
    shards : tuple of int
    run : int
        Shards whose rows are one chunk.
    """

    parts: tuple[str, ...]
    shards: tuple[int, ...]
    run: int

    def runs(self) -> list[list[int]]:
        """The shards, chunk by chunk."""
        return [list(some) for _, some in groupby(self.shards, lambda shard: shard // self.run)]


def missing(store: Store, space: Space) -> list[Lacking]:
    """Finished shards that are not in the index, by the parts that lack them."""
    done = sorted(store.done_shards())
    groups: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for part in space.parts:
        facts = head_index.find_part(store.url, store.meta, part)
        counted = set() if facts is None else facts.counted()
        run = head_index.run_of(store.meta) if facts is None else facts.run
        if lacking := tuple(shard for shard in done if shard not in counted):
            groups.setdefault((lacking, run), []).append(part)
    return [Lacking(tuple(parts), shards, run) for (shards, run), parts in groups.items()]


def build(
    store: Store, space: Space, *, report: Callable[[int], None] = lambda shards: None
) -> None:
    """Bring the index of a space up to date with the store's finished shards.

    Parameters
    ----------
    store : Store
    space : Space
    report : callable
        Called with the number of shards done so far.

    Raises
    ------
    StoreError
        If the store lacks what is asked for, or the index is damaged.
    NotFinite
        If an image that is ok has no coordinates.
    """
    refuse_parts(store.url, store.meta, space)
    coordinates, done = Coordinates.of(store, space), 0
    for lacking in missing(store, space):
        known = _known(store, coordinates, lacking.parts)
        work, runs = IndexRun(store.url, coordinates, known, lacking.run), lacking.runs()
        noted = time.monotonic()
        for run, found in zip(runs, each(index_run, runs, work), strict=True):
            done += len(run)
            known = {part: facts.added(run, *found[part]) for part, facts in known.items()}
            if run is runs[-1] or time.monotonic() - noted > SECONDS_BETWEEN_NOTES:
                for part, facts in known.items():
                    head_index.write_facts(store.url, store.meta, part, facts)
                noted = time.monotonic()
            report(done)


def _known(store: Store, coordinates: Coordinates, parts: Sequence[str]) -> dict[str, PartFacts]:
    """What parts say of themselves; those that are not there are made, all as long as the store."""
    found = {part: head_index.find_part(store.url, store.meta, part) for part in parts}
    made = {p: f for p, f in found.items() if f is not None}
    for part, facts in made.items():
        head_index.write_facts(store.url, store.meta, part, facts)
    new = [part for part in parts if part not in made]
    for part, facts in _first_look(store, coordinates, new).items():
        head_index.create_part(store.url, store.meta, part, facts)
        made[part] = facts
    return made


def _first_look(
    store: Store, coordinates: Coordinates, parts: Sequence[str]
) -> dict[str, PartFacts]:
    """Offset and unit of new parts, from images here and there in the store.

    A row of usual length is about 1 in its unit: float16 has room for much longer and shorter.
    """
    if not parts:
        return {}
    data = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    rows: dict[str, list[NDArray]] = {part: [] for part in parts}
    for shard in spread(sorted(store.done_shards()), LOOKED_AT):
        start, stop = store.meta.rows(shard)
        ok = np.asarray(ledger.read_part(store.data, shard)["ok"])[:IMAGES_LOOKED_AT]
        at = slice(start, min(stop, start + IMAGES_LOOKED_AT))
        for part, found in _coordinates(data, coordinates, parts, at):
            rows[part].append(found[ok].astype(np.float64))
    facts, digest = {}, store.meta.digest()
    for part in parts:
        seen = np.concatenate(rows[part])
        seen = seen[np.isfinite(seen).all(1)]  # whoever writes the others says so
        # Medians: one image that is damaged or far out changes neither.
        offset = np.median(seen, axis=0) if len(seen) else np.zeros(seen.shape[1])
        lengths = np.sqrt(((seen - offset) ** 2).mean(1))
        unit = 2.0 ** np.round(np.log2(np.median(lengths[lengths > 0]))) if lengths.any() else 1.0
        kept = offset.astype(np.float32).tolist()  # in which it is taken off
        facts[part] = PartFacts(digest, float(unit), kept, head_index.run_of(store.meta))
    return facts


def _coordinates(
    data: Any, coordinates: Coordinates, parts: Sequence[str], at: slice
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Coordinates of a run of images, part by part; a layer or block is read once, and alone."""
    embedding, ln_std = (np.asarray(data[name][at], np.float64) for name in ("embedding", "ln_std"))
    norm_b = np.linalg.norm(embedding, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # images that are not ok; others are said
        for (kind, number), some in groupby(parts, _source):
            if kind == EMBEDDING:
                yield EMBEDDING, coordinates.by_part[EMBEDDING].rows(embedding, norm_b)
                continue
            values = np.asarray(data["heads" if kind == HEADS else "mlps"][at, number])
            for part in some:
                rows = values[:, part_numbers(part)[1]] if kind == HEADS else values
                yield part, coordinates.by_part[part].rows(rows, ln_std * norm_b)


def _source(part: str) -> tuple[str, int]:
    """What is read for a part: its kind, and the layer or block."""
    return part.partition("/")[0], next(iter(part_numbers(part)), 0)


@dataclass(frozen=True, eq=False)
class IndexRun:
    """What all runs of a build have in common; sent to every task.

    Attributes
    ----------
    url : str
        The store, or the view that the index belongs to.
    coordinates : Coordinates
    known : dict of str to PartFacts
        Of the parts that are made.
    run : int
        Shards whose rows are one chunk of each.
    """

    url: str
    coordinates: Coordinates
    known: dict[str, PartFacts]
    run: int


def index_run(work: IndexRun, shards: Sequence[int]) -> dict[str, tuple[int, NDArray]]:
    """Write some shards of one chunk of every part.

    Returns
    -------
    dict of str to (int, (r,) float64)
        Number of the rows with values, and their sum, by part.
    """
    store = open_store(work.url)
    data = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    first = shards[0] // work.run * work.run
    chunk = range(first, min(first + work.run, store.meta.shards))
    start, stop = store.meta.rows(first)[0], store.meta.rows(chunk[-1])[1]
    ok = {shard: np.asarray(ledger.read_part(store.data, shard)["ok"]) for shard in shards}
    found: dict[str, tuple[int, NDArray]] = {}
    # One layer or block after the other, so that no more is held than its parts' chunks.
    for _, some in groupby(
        work.known, lambda part: (part.partition("/")[0], part_numbers(part)[:1])
    ):
        group = list(some)
        opened = {p: head_index.open_array(work.url, p, "r+") for p in group}
        chunks = {
            p: np.full((stop - start, a.shape[1]), np.nan, np.float16)
            if len(shards) == len(chunk)
            else head_index.read_rows(work.url, p, a, start, stop).copy()
            for p, a in opened.items()
        }
        new: dict[str, list[NDArray]] = {p: [] for p in group}
        for shard in shards:
            a, b = store.meta.rows(shard)
            for part, rows in _coordinates(data, work.coordinates, group, slice(a, b)):
                facts = work.known[part]
                rows -= np.array(facts.offset, np.float32)
                rows /= np.float32(facts.unit)
                with np.errstate(over="ignore", invalid="ignore"):
                    kept = rows.astype(np.float16)
                kept[~ok[shard]] = np.nan
                arrays.refuse_not_finite(f"{INDEX}/{part}", kept, a, ok[shard])
                chunks[part][a - start : b - start] = kept
                new[part].append(kept)
        for part, array in opened.items():
            write_chunk(array, start, chunks[part])
            found[part] = head_index.sums(np.concatenate(new[part]))
    return found


def write_chunk(array: Any, start: int, rows: NDArray) -> None:
    """Write a chunk, read it back, and compare."""
    array[start : start + len(rows)] = rows
    if not np.array_equal(np.asarray(array[start : start + len(rows)]), rows, equal_nan=True):
        raise OSError(f"rows from {start} on of {array.path} read back otherwise")
