"""Searching one head by the approximate index beside the scan, over images that lie in clusters.

``python -m benchmarks.approximate`` simulates the index of one head over a million images: rows lie
about 20,000 centres, as much within a cluster as between them, with variances that fall off as
those of heads do. Queries are images of the store; and, further from all rows, as texts are, random
directions.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.search import HEAD, SHARD, SPACE, ledger_rows, make_store
from pipeline.cluster import machines
from pipeline.search.approximate import Lists
from pipeline.search.scan import Nearest, Queries, nearest
from storage import head_index, ledger, open_store
from storage.layout import head_part, index_array

WIDTH = 64


@dataclass(frozen=True)
class Config:
    """What to measure."""

    images: int = 1_000_000
    """Images of the index."""
    centres: int = 20_000
    """Clusters that they lie in."""
    top: int = 50
    """Images of each query."""
    queries: int = 100
    """Queries, one after the other and at once."""
    folder: str | None = None
    """Where the simulated store goes; by default a temporary folder."""


def simulate(url: str, config: Config) -> None:
    """The index of one head whose rows lie in clusters, and a ledger of finished shards."""
    store, rng = make_store(url, config.images), np.random.default_rng(1)
    for shard in range(store.meta.shards):
        ledger.write_part(url, shard, ledger_rows(store, shard), {"bad": {}})
    part = head_part(*HEAD)
    spec = index_array(store.meta, part)
    facts = head_index.PartFacts(
        store.meta.digest(), 2.0**-8, [0.01] * WIDTH, spec.chunks[0] // SHARD
    )
    head_index.create_part(url, store.meta, part, facts)
    array = head_index.open_array(url, part, "r+")
    spread = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((config.centres, WIDTH), np.float32)
    for start in range(0, config.images, spec.chunks[0]):
        stop = min(start + spec.chunks[0], config.images)
        rows = rng.standard_normal((stop - start, WIDTH), np.float32)
        rows = ((rows + centres[rng.integers(0, config.centres, len(rows))]) * spread).astype(
            np.float16
        )
        array[start:stop] = rows
        facts = facts.added(range(start // SHARD, -(-stop // SHARD)), *head_index.sums(rows))
    head_index.write_facts(url, store.meta, part, facts)


def taken(way: Callable[[Queries], Nearest], queries: Queries) -> tuple[float, float, float]:
    """Seconds and CPU seconds of one query, medians; seconds of each of all at once."""
    walls, cpus = [], []
    for i in range(min(20, len(queries.vectors_qw))):
        one = Queries(queries.vectors_qw[i : i + 1], queries.are_texts_q[i : i + 1])
        wall, cpu = time.perf_counter(), time.process_time()
        way(one)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    wall = time.perf_counter()
    way(queries)
    return median(walls), median(cpus), (time.perf_counter() - wall) / len(queries.vectors_qw)


def main(config: Config) -> None:
    """Print a Markdown table, a row a way and kind of queries."""
    machines.work("here")
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        simulate(folder, config)
        store, rng = open_store(folder), np.random.default_rng(2)
        lists = Lists(store, SPACE, "cosine", True)
        wall, cpu = time.perf_counter(), time.process_time()
        lists.build()
        print(
            f"made in {time.perf_counter() - wall:.0f} s ({time.process_time() - cpu:.0f} of CPU): "
            f"{sum(p.stat().st_size for p in lists.place.iterdir()) / 1e6:.0f} MB; of the "
            f"{config.top} nearest it tells {lists.recall(config.top)}\n"
        )
        array = head_index.open_array(folder, head_part(*HEAD))
        mean = head_index.open_parts(store, SPACE.parts)[head_part(*HEAD)]
        at = rng.integers(0, config.images, config.queries)
        rows = np.array([array[i] for i in at]).astype(np.float32) * mean.unit + 0.01
        random: NDArray = rng.standard_normal((config.queries, WIDTH), np.float32)
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        print("| queries | way | recall | s | CPU s | s each, at once |\n|---|---|---|---|---|---|")
        for name, vectors, texts in (("images", rows, False), ("directions", random, True)):
            queries = Queries(vectors.astype(np.float32), np.full(config.queries, texts))
            ways: dict[str, Callable[[Queries], Nearest]] = {
                "scan": lambda q: nearest(store, SPACE, q, metric="cosine", top=config.top),
                "approximate": lambda q: lists.nearest(q, config.top),
            }
            right = ways["scan"](queries).rows_qk
            for way, search in ways.items():
                found = search(queries).rows_qk
                recall = np.mean([np.isin(a, b).mean() for a, b in zip(right, found, strict=True)])
                one, cpu_one, each = taken(search, queries)
                print(f"| {name} | {way} | {recall:.3f} | {one:.4f} | {cpu_one:.4f} | {each:.5f} |")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main(tyro.cli(Config, description=__doc__))
