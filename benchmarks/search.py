"""Searching one head beside a scan of published vectors and beside reading the store itself.

``python -m benchmarks.search`` simulates the last four layers of ViT-L/14 over a million images:
the index of one head is written whole, random numbers, and so is the ledger; contributions are
written for some shards only, and what reading them takes is scaled to all images. So are the
published vectors, which would be 3 GB: float32 in the joint space, normalised anew for every query.
Every way is a process of its own; memory is what its peak grew by while it searched, once all was
imported and opened.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch
import tyro

from pipeline.cluster import machines
from pipeline.search.build import build
from pipeline.search.choices import Space
from pipeline.search.coordinates import Coordinates
from pipeline.search.scan import Queries, nearest
from storage import head_index, ledger, open_store, urls
from storage.images import write_images
from storage.layout import CONTRIBUTIONS, head_part, index_array, model_arrays
from storage.metadata import Metadata
from storage.store import Store, create_store

HEAD = (3, 5)
SPACE = Space((HEAD,))
SHARD = 1024


@dataclass(frozen=True)
class Config:
    """What to measure."""

    images: int = 1_000_000
    """Images of the index."""
    read: int = 48
    """Shards of contributions that are read, and turned into an index."""
    published: int = 200_000
    """Published vectors that are scanned."""
    queries: int = 1000
    """Queries at once."""
    top: int = 50
    """Images of each."""
    rounds: int = 5
    """Rounds, after one that warms up."""
    threads: int = 2
    """Threads of NumPy; the scan itself takes all cores."""
    folder: str | None = None
    """Where the simulated stores go; by default a temporary folder."""


@dataclass(frozen=True)
class Taken:
    """What one way took; seconds are medians of the rounds."""

    wall: float
    cpu: float
    grown: int

    def over(self, part: float) -> Taken:
        """Of all images, where only this part was read."""
        return replace(self, wall=self.wall / part, cpu=self.cpu / part)


def metadata(images: int) -> Metadata:
    """The last four layers of ViT-L/14."""
    return Metadata(
        architecture="ViT-L-14", architecture_digest="a", weights="none", weights_digest="w",
        activation="gelu", preprocessing={"size": [224, 224]}, precision="fp32",
        store_dtype="float16", components=("heads",), token_layers=(), image_list_digest="i",
        images=images, shard_size=SHARD, layers=4, heads=16, head_dim=64, width=1024,
        mlp_width=4096, embed=768, tokens=257, grid=(16, 16), prefix=1,
    )  # fmt: skip


def make_store(url: str, images: int) -> Store:
    """A store of which nothing is finished."""
    meta, rng = metadata(images), np.random.default_rng(0)
    index = np.arange(images)
    texts = pa.array(index.astype(str))
    nothing, none = pa.nulls(images, pa.string()), pa.nulls(images, pa.int64())
    columns = (index, texts, texts, none, none, nothing, nothing)
    names = ["index", "key", "uri", "offset", "length", "label", "caption"]
    write_images(url, [pa.table(list(map(pa.array, columns)), names=names)])
    maps = {s.name: rng.standard_normal(s.shape, np.float32) / 28 for s in model_arrays(meta)}
    return create_store(url, meta, maps)


def ledger_rows(store: Store, shard: int) -> pa.Table:
    """Of images that are all ok."""
    start, stop = store.meta.rows(shard)
    n = stop - start
    columns = [range(start, stop), [True] * n, [None] * n, [""] * n, [224] * n, [224] * n]
    return pa.table([list(column) for column in columns], schema=ledger.SCHEMA)


def simulate_index(url: str, images: int) -> None:
    """The index of one head, and a ledger in which all shards are finished."""
    store = make_store(url, images)
    for shard in range(store.meta.shards):
        ledger.write_part(url, shard, ledger_rows(store, shard), {"bad": {}})
    part, rng = head_part(*HEAD), np.random.default_rng(1)
    spec = index_array(store.meta, part)
    run = spec.chunks[0] // SHARD
    offset = (rng.standard_normal(64) * 1e-2).astype(np.float32).tolist()
    facts = head_index.PartFacts(store.meta.digest(), 2.0**-8, offset, run)
    head_index.create_part(url, store.meta, part, facts)
    array = head_index.open_array(url, part, "r+")
    for start in range(0, images, spec.chunks[0]):
        stop = min(start + spec.chunks[0], images)
        rows = rng.standard_normal((stop - start, 64), np.float32).astype(np.float16)
        array[start:stop] = rows
        facts = facts.added(range(start // SHARD, -(-stop // SHARD)), *head_index.sums(rows))
    head_index.write_facts(url, store.meta, part, facts)


def simulate_contributions(url: str, shards: int) -> None:
    """A store of so many shards."""
    store, rng = make_store(url, shards * SHARD), np.random.default_rng(2)
    for shard in range(shards):
        rows = store.empty_rows(SHARD)
        for name, spec in store.arrays.items():
            if spec.dtype != "str":
                rows[name][:] = rng.standard_normal(rows[name].shape, np.float32)
        rows["ln_std"][:] = np.abs(rows["ln_std"]) + 0.5
        store.write_shard(shard, rows, ledger_rows(store, shard), {"bad": {}})


# -- ways, each in a process of its own --------------------------------------------------------


def measure(way: Callable[[], object], rounds: int) -> Taken:
    """Medians of rounds, after one that warms up; how much the peak of the memory grew."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before, taken = _held("VmRSS"), []
    for _ in range(rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        way()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*taken[min(1, rounds) :], strict=True)
    return Taken(median(walls), median(cpus), _held("VmHWM") - before)


def _held(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


def by_index(config: Config, url: str, queries: int) -> Taken:
    """``nearest`` itself: the index is opened anew each time."""
    machines.work("here")
    store, rng = open_store(url), np.random.default_rng(3)
    asked = Queries(rng.standard_normal((queries, 64), np.float32) * 1e-2, np.zeros(queries, bool))
    return measure(
        lambda: nearest(store, SPACE, asked, metric="cosine", top=config.top), config.rounds
    )


def by_store(config: Config, url: str) -> Taken:
    """One head read from the store, turned into coordinates, and compared."""
    torch.set_num_threads(config.threads)
    store = open_store(url)
    coordinates = Coordinates.of(store, SPACE).by_part[head_part(*HEAD)]
    data = urls.open_group(urls.join(url, CONTRIBUTIONS), mode="r")
    query = np.random.default_rng(3).standard_normal(64, np.float32)

    def read() -> None:
        scores = []
        for shard in range(store.meta.shards):
            at = slice(*store.meta.rows(shard))
            embedding, ln_std = np.asarray(data["embedding"][at]), np.asarray(data["ln_std"][at])
            rows = np.asarray(data["heads"][at, HEAD[0], HEAD[1]])
            found = coordinates.rows(rows, ln_std * np.linalg.norm(embedding, axis=1))
            scores.append(found @ query / np.linalg.norm(found, axis=1))
        np.argsort(-np.concatenate(scores))[: config.top]

    return measure(read, config.rounds)


def by_vectors(config: Config) -> Taken:
    """Published vectors: all normalised, and all sorted, for every query."""
    vectors = np.random.default_rng(4).standard_normal((config.published, 768), np.float32)
    query = vectors[7] / np.linalg.norm(vectors[7])

    def published() -> None:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.argsort(-(unit @ query))[: config.top]

    return measure(published, config.rounds)


def by_building(config: Config, url: str) -> Taken:
    """The index of all heads of four layers, from the first run of shards on, which starts it."""
    machines.work("here")
    heads = Space(tuple((layer, head) for layer in range(4) for head in range(16)))
    seen: list[tuple[int, float, float]] = []

    def anew() -> None:
        urls.remove(urls.join(url, "index.zarr"))
        build(
            open_store(url),
            heads,
            report=lambda done: seen.append((done, time.perf_counter(), time.process_time())),
        )

    grown = measure(anew, 0).grown
    (first, wall, cpu), (last, wall_after, cpu_after) = seen[0], seen[-1]
    share = (last - first) / config.read
    return Taken((wall_after - wall) / share, (cpu_after - cpu) / share, grown)


def main(config: Config) -> None:
    """Print a Markdown table, a row a way."""
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        index, contributions = f"{folder}/index", f"{folder}/contributions"
        simulate_index(index, config.images)
        simulate_contributions(contributions, config.read)

        def alone(way: Callable[..., Taken], *given: object) -> Taken:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                return pool.submit(way, config, *given).result()

        one = alone(by_index, index, 1)
        many = alone(by_index, index, config.queries)
        share = config.read * SHARD / config.images
        ways = {
            "the index, one query": one,
            f"the index, {config.queries:,} queries at once": many,
            "one head read from the store, one query": alone(by_store, contributions).over(share),
            "NumPy over published vectors, one query": alone(by_vectors).over(
                config.published / config.images
            ),
            "indexing 64 heads": alone(by_building, contributions).over(share),
        }
    print(f"One head, {config.images:,} images, the nearest {config.top}, medians of rounds\n")
    print("| what | s | CPU s | CPU s / the index | memory grown, MB |\n|---|---|---|---|---|")
    for name, taken in ways.items():
        print(
            f"| {name} | {taken.wall:.3f} | {taken.cpu:.3f} | {taken.cpu / one.cpu:.1f} | "
            f"{taken.grown / 1e6:.0f} |"
        )
    each = many.cpu / config.queries
    print(
        f"\nOf {config.queries:,} queries each takes {each * 1e3:.2f} ms of one core: "
        f"{one.cpu / each:.0f} times less"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
