"""The real scheduler, store, ledger and reductions, with a model that costs nothing.

python -m benchmarks.simulate shard
python -m benchmarks.simulate million
python -m benchmarks.simulate resume

What is skipped is decoding and the forward pass; every image has its row in the image table, its
tiny arrays, and its row in the ledger, written, read back and declared as any others are.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
import tyro

from jobs import status
from pipeline.cluster import machines
from pipeline.cluster.work import Workers
from pipeline.extraction import run
from pipeline.extraction.extractor import Extractor, Pass
from pipeline.extraction.feed import Fetched, Link
from pipeline.images.batches import Batch, batch_calls
from pipeline.images.load import LoadedImages
from pipeline.stats.reductions import reduce_store
from storage import arrays, ledger
from storage.images import read_rows, write_images
from storage.layout import CONTRIBUTIONS, model_arrays
from storage.metadata import Metadata
from storage.sharding import find_sharding
from storage.store import Store, create_store, open_store

MODEL: Any = SimpleNamespace(
    preprocess=SimpleNamespace(resize=None, size=(8, 8)), module=torch.nn.Identity()
)
PIECE = 65_536
SHA256 = "0" * 64


class StubExtractor(Extractor):
    """An extractor whose forward pass is a look into a box of random numbers."""

    def __init__(self, url: str, model: Any, device: str, threads: int) -> None:
        self.store = open_store(url, mode="r+")
        self._seen, self._computing, self.link = 0, threading.Lock(), Link(torch.device("cpu"))
        self.decomposer = SimpleNamespace(model=None)  # which is only asked where numbers are lost
        rng = np.random.default_rng(0)
        self._box = {
            name: torch.from_numpy(
                # None is negative: ln_std and the embedding's length are divided by.
                rng.uniform(1, 2, (self.store.meta.shard_size, *spec.shape[1:])).astype(spec.dtype)
            )
            for name, spec in self.store.arrays.items()
            if spec.dtype != "str"
        }

    def _begin(self, batch: Batch, pixels_bhwc: torch.Tensor) -> Pass:
        arrays = {name: values[: len(batch.keys)] for name, values in self._box.items()}
        finite = torch.ones(len(arrays), len(batch.keys), dtype=torch.bool)
        told = Fetched({"computed": finite, "stored": finite})
        return Pass(batch, pixels_bhwc, tuple(arrays), Fetched(arrays), told)


class StubExtraction(run.Extraction):
    """The real work with the stubs in place of the model and of decoding."""

    def start(self) -> StubExtractor:
        return StubExtractor(self.url, self.model, self.workers.device, self.workers.threads)

    def ahead(self, shard: int) -> list[tuple[Any, ...]]:
        return [(stub_batch, *given) for _, *given in super().ahead(shard)]


def stub_batch(url: str, start: int, stop: int, resize: Any) -> Batch:
    """The rows of a batch, read from the image table; no picture is."""
    rows, n = read_rows(url, start, stop), stop - start
    loaded = LoadedImages(
        np.zeros((n, 0), np.uint8), np.ones(n, bool), [None] * n, [SHA256] * n, [8] * n, [8] * n
    )
    return Batch(start, loaded, rows["key"].to_pylist(), rows["label"].to_pylist())


def stub_store(url: str, images: int, shard_size: int) -> Store:
    """A store of so many images with tiny arrays, nothing extracted yet."""

    def tables() -> Any:
        for start in range(0, images, PIECE):
            index = np.arange(start, min(start + PIECE, images))
            keys = pa.array([f"image-{i:09d}" for i in index])
            none = pa.nulls(len(index), pa.int64())
            yield pa.table(
                {
                    "index": index, "key": keys, "uri": keys, "offset": none, "length": none,
                    "label": pa.array([f"class-{i % 10}" for i in index]),
                    "caption": pa.nulls(len(index), pa.string()),
                }
            )  # fmt: skip

    write_images(url, tables())
    meta = Metadata(
        architecture="stub", architecture_digest="", weights="none:0", weights_digest="",
        activation="gelu", preprocessing={}, precision="fp32", store_dtype="float16",
        components=("heads", "mlps"), token_layers=(), image_list_digest="", images=images,
        shard_size=shard_size, layers=2, heads=2, head_dim=4, width=8, mlp_width=32, embed=8,
        tokens=2, grid=(1, 1), prefix=1, source="a simulation",
    )  # fmt: skip
    return create_store(url, meta, {s.name: np.ones(s.shape) for s in model_arrays(meta)})


def driver_memory() -> float:
    """Private memory of this process, MB: resident less shared (Ray's object store is mapped)."""
    held = psutil.Process().memory_info()
    return (held.rss - held.shared) / 1e6


class Watched:
    """When, how far, and how much memory the driver held then."""

    def __init__(self, total: int) -> None:
        self.total, self.seen = total, [(time.perf_counter(), 0, driver_memory())]

    def __call__(self, done: int) -> None:
        self.seen.append((time.perf_counter(), done, driver_memory()))

    def rows(self, what: str) -> list[str]:
        """Seconds a shard, and the driver's memory, after each quarter of the work."""
        lines, before = [], self.seen[0]
        for quarter in range(1, 5):
            at = next(s for s in self.seen if s[1] >= quarter * self.total // 4)
            each = (at[0] - before[0]) / max(1, at[1] - before[1])
            most = max(m for _, done, m in self.seen if before[1] <= done <= at[1])
            lines.append(f"| {what} | {quarter} | {1000 * each:.1f} | {most:.0f} |")
            before = at
        return lines


@contextmanager
def stubbed() -> Any:
    """The extraction's own loop, over stub work."""
    real = run.Extraction
    run.Extraction = StubExtraction  # type: ignore[misc]
    try:
        yield
    finally:
        run.Extraction = real  # type: ignore[misc]


def shard(shards: int = 40, shard_size: int = 1000, batch: int = 256, rounds: int = 3) -> None:
    """What a shard costs a worker beside the model, its arrays written by zarr and by us."""
    took: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for way, find in {"by zarr": lambda _: None, "by us": find_sharding}.items():
                arrays.find_sharding = find  # type: ignore[assignment]
                store = stub_store(f"{folder}/{turn}-{way}", shards * shard_size, shard_size)
                worker = StubExtractor(store.url, MODEL, "cpu", 1)
                for number in range(shards):
                    calls = batch_calls(store.url, *store.meta.rows(number), batch, None)
                    batches: list[Batch] = []
                    read = partial(batches.extend, (stub_batch(*call[1:]) for call in calls))
                    took["rows of the image table"].append(timed(read))
                    took[way].append(timed(partial(worker.do, number, batches)))
    print("\n| a shard | ms | ms of CPU |\n|---|---|---|")
    for what, times in took.items():
        wall, cpu = 1000 * np.median(np.array(times), axis=0)
        print(f"| {what} | {wall:.1f} | {cpu:.1f} |")


def million(images: int = 1_000_000, shard_size: int = 1000, actors: int = 2) -> None:
    """Extract and reduce a million images: what a shard costs, and that the driver stays flat."""
    machines.connect()
    with tempfile.TemporaryDirectory() as url, stubbed():
        store = stub_store(url, images, shard_size)
        workers = Workers("cpu", actors, 1, 256)
        watch = Watched(store.meta.shards)
        run.run(
            store, MODEL, workers, max_bad=0.0,
            report=lambda images: watch(images // shard_size),
        )  # fmt: skip
        reducing = Watched(store.meta.shards)
        reduce_store(store, report=reducing)
        files, size = map(sum, zip(*store.size().values(), strict=True))
    print(
        f"\n{images:,} images in {store.meta.shards:,} shards; {files:,} files, {size / 1e6:.0f} MB"
    )
    print("\n| what | quarter | ms a shard | driver's memory, MB |\n|---|---|---|---|")
    print("\n".join(watch.rows("extract") + reducing.rows("reduce")))


class WorkerAsked(Exception):
    """The first worker is asked for."""


@contextmanager
def as_before() -> Any:
    """Every shard's folder is looked into, and facts are read by Parquet's own reader."""
    value, sweep = ledger._value, Store.sweep
    ledger._value = lambda *_: None  # type: ignore[assignment]
    Store.sweep = lambda self, done=(): sweep(self)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ledger._value, Store.sweep = value, sweep  # type: ignore[method-assign]


def resume(
    shards: int = 100_000, shard_size: int = 10, left: int = 4, store: str | None = None
) -> None:
    """A store with so many finished shards: listing, status, and going on from there.

    Parameters
    ----------
    store : str, optional
        Where it is kept, and found again by the next call, as making it takes longest.
    """
    with tempfile.TemporaryDirectory() as folder:
        url = store or folder
        if Path(url, CONTRIBUTIONS).exists():
            opened = open_store(url, mode="r+")
            assert (opened.meta.shards, opened.meta.shard_size) == (shards, shard_size)
        else:
            opened = stub_store(url, shards * shard_size, shard_size)
            finish_shards(opened, range(shards - left))
        for last in range(shards - left, shards):
            Path(ledger.part_url(url, last)).unlink(missing_ok=True)
        machines.connect()
        workers = Workers("cpu", 1, 1, 256)

        def go_on(say: Any) -> None:
            with stubbed():
                run.run(opened, MODEL, workers, max_bad=0.0, say=say)

        def asked(text: str) -> None:
            raise WorkerAsked

        def until_asked() -> None:
            with suppress(WorkerAsked):
                go_on(asked)

        work = {
            "listing the ledger": opened.done_shards,
            "`facet status`": lambda: status.main(status.StatusConfig(store=url)),
            "resume, until the first worker is asked for": until_asked,
        }
        rows = []
        for what, do in work.items():
            now = timed(do)  # first, so that nothing is warm that is cold before
            with as_before():
                before = timed(do)
            rows.append(f"| {what} | {' | '.join(f'{t:.1f}' for t in (*before, *now))} |")
        wall, cpu = timed(lambda: go_on(print))
        rows.append(f"| resume, until {left} shards are done | | | {wall:.1f} | {cpu:.1f} |")
    print(f"\n| {shards:,} shards | before, s | of CPU | now, s | of CPU |\n|---|---|---|---|---|")
    print("\n".join(rows))


def timed(work: Any) -> tuple[float, float]:
    """Seconds, and seconds of this process's CPUs."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def finish_shards(store: Store, shards: range) -> None:
    """The files of finished shards, as many and where they would be: arrays empty, and the ledger
    parts of one shard's rows."""
    n = store.meta.shard_size
    columns = [np.arange(n), np.ones(n, bool), [None] * n, [SHA256] * n, [8] * n, [8] * n]
    none = {"sum": 0.0, "max": 0.0}
    facts = {"bad": {}, "residual": none, "rounding": none}
    ledger.write_part(store.url, 0, pa.table(columns, schema=ledger.SCHEMA), facts)
    part = Path(ledger.part_url(store.url, 0)).read_bytes()
    for shard in shards:
        for name, spec in store.arrays.items():
            place = f"{store.url}/{CONTRIBUTIONS}/{name}/c/{shard}"
            if shard == shards[0]:
                os.makedirs(os.path.dirname(place), exist_ok=True)
            for _ in spec.dims[1:]:
                os.mkdir(place)
                place += "/0"
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
        Path(ledger.part_url(store.url, shard)).write_bytes(part)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"shard": shard, "million": million, "resume": resume})
