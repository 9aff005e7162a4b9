"""The explorer over a simulated store of a million images.

    python -m benchmarks.explorer make --folder /tmp/million
    python -m benchmarks.explorer start --folder /tmp/million
    python -m benchmarks.explorer load --folder /tmp/million
    python -m benchmarks.explorer flat --folder /tmp/million

The store is one of the embedded world's, whose shards stand in it again and again: a shard of
another number is the same file (a hard link), and all rows of the tables are written. Moments, the
index of all heads, descriptions and labels are found by the jobs themselves.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from urllib.parse import quote

import numpy as np
import psutil
import pyarrow as pa
import tyro

from jobs import extract, index, label, reduce, textspan
from pipeline.cluster import machines
from pipeline.texts import load_pool
from storage import ledger, open_store
from storage.images import write_images
from storage.layout import CONTRIBUTIONS, model_arrays
from storage.store import Store, create_store

SHARD, SEED_IMAGES = 1000, 2000
CONDITIONS = (
    'label == "star"', 'background == "night"', 'colour == "red" and count > 1',
    'shape in ("star", "heart")', "count == 2", 'place == "middle" and background == "sand"',
)  # fmt: skip
COLUMNS = ("index", "key", "label", "background", "colour", "count")


# -- the store ---------------------------------------------------------------------------------


def make(folder: Path, images: int = 1_000_000) -> None:
    """Simulate the store, and have the jobs find what there is to be looked at."""
    seed = open_store(_seed(folder))
    url = str(folder / "store")
    write_images(url, _tables(seed, images))
    meta = replace(seed.meta, images=images, image_list_digest="simulated")
    maps = {spec.name: np.asarray(seed.model()[spec.name]) for spec in model_arrays(meta)}
    store = create_store(url, meta, maps)
    _link(seed, store)
    for shard in range(meta.shards):
        ledger.write_part(url, shard, _ledger(seed, store, shard), _facts(seed, shard))
    reduce.main(reduce.ReduceConfig(store=url, workers="here"))
    index.main(index.IndexConfig(store=url, workers="here"))
    textspan.main(textspan.TextSpanConfig(store=url, pool="microworld", workers="here"))
    label.main(label.LabelConfig(store=url, workers="here"))


def _seed(folder: Path) -> str:
    url = str(folder / "seed")
    extract.main(
        extract.ExtractConfig(
            images=f"microworld:n={SEED_IMAGES},seed=7,split=test", model="microworld",
            pretrained="microworld", store=url, shard_size=SHARD, workers="here",
        )
    )  # fmt: skip
    return url


def _tables(seed: Store, images: int) -> Iterator[pa.Table]:
    rows = seed.images()
    for first in range(0, images, len(rows)):
        some = rows.slice(0, min(len(rows), images - first))
        numbers = np.arange(first, first + len(some))
        keys = [f"{key}-{first}" for key in some["key"].to_pylist()]
        some = some.set_column(some.column_names.index("index"), "index", pa.array(numbers))
        yield some.set_column(some.column_names.index("key"), "key", pa.array(keys))


def _link(seed: Store, store: Store) -> None:
    """The seed's chunks, again and again."""
    for name in store.arrays:
        chunks = Path(seed.url, CONTRIBUTIONS, name, "c")
        for shard in range(store.meta.shards):
            old = chunks / str(shard % seed.meta.shards)
            new = Path(store.url, CONTRIBUTIONS, name, "c", str(shard))
            files = [old] if old.is_file() else [f for f in old.rglob("*") if f.is_file()]
            for file in files:
                to = new / file.relative_to(old) if file != old else new
                to.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, to)


def _ledger(seed: Store, store: Store, shard: int) -> pa.Table:
    rows = ledger.read_part(seed.url, shard % seed.meta.shards)
    start, stop = store.meta.rows(shard)
    return rows.slice(0, stop - start).set_column(0, "index", pa.array(range(start, stop)))


def _facts(seed: Store, shard: int) -> dict[str, object]:
    (facts,) = ledger.read_facts(seed.url, [shard % seed.meta.shards])
    return facts


# -- the server --------------------------------------------------------------------------------


@contextmanager
def explored(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command itself, and its port."""
    line = [sys.executable, "-m", "jobs.cli", "explore", "--store", str(folder / "store")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "BROWSER": "", "DISPLAY": ""}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = next(text for text in process.stdout if "http://" in text)
        found = re.search(r":(\d+)/", said)
        assert found is not None
        try:
            yield process, int(found[1])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def ask(connection: http.client.HTTPConnection, address: str) -> tuple[float, int, int]:
    """Seconds of a request, its status, and the bytes of its answer."""
    started = time.perf_counter()
    connection.request("GET", address)
    answer = connection.getresponse()
    size = len(answer.read())
    return time.perf_counter() - started, answer.status, size


def start(folder: Path, rounds: int = 5) -> None:
    """From the command to the first page: seconds, and what the server computed."""
    print("| page | s | CPU s |\n|---|---|---|")
    for page in ("/", "/s/store"):
        taken, computed = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            with explored(folder) as (process, port):
                _, status, _ = ask(http.client.HTTPConnection("127.0.0.1", port), page)
                taken.append(time.perf_counter() - started)
                computed.append(_cpu(process))
                assert status == 200, page
        print(f"| {page} | {median(taken):.1f} | {median(computed):.1f} |")


# -- what is asked -----------------------------------------------------------------------------

# Of a hundred requests: what is opened is mostly images and lists of them, and a page of those has
# two to four dozen thumbnails, of which a browser has half already.
SHARES = {
    "thumbnail": 60, "image": 8, "images": 6, "images, filtered and sorted": 3,
    "image's neighbours": 3, "head": 4, "map of all images": 5, "text": 3, "overview": 3,
    "properties": 2, "classes": 1, "results": 2,
}  # fmt: skip
HEADS = [f"{layer}.{head}" for layer in range(4) for head in range(4)]


def address_of(kind: str, rng: random.Random, images: int, texts: Sequence[str]) -> str:
    """An address of a view that runs no model; hardly one comes twice."""
    image, head, number = rng.randrange(images), rng.choice(HEADS), rng.randrange(1 << 40)
    where = rng.choice(CONDITIONS)
    text = quote(rng.choice(texts))  # of a pool whose embeddings are kept
    x, y, side = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.1, 2)
    space = rng.choice([*[f"head:{head}"] * 4, f"layer:{rng.randrange(4)}"])
    addresses = {
        "overview": f"?colour={rng.choice(['share', 'variance', 'label'])}&q={number}",
        "images": f"/images?after={image}",
        "images, filtered and sorted": "/images?"
        f"where={quote(where + f' and index > {image}')}&sort={rng.choice(COLUMNS)}",
        "image": f"/image/{image}",
        "image's neighbours": f"/image/{image}/alike?in={space}",
        "thumbnail": f"/image/{image}/thumbnail.jpg",
        "head": f"/head/{head}?q={number}",
        "map of all images": f"/head/{head}/map.png?width={rng.randrange(300, 900)}"
        f"&height=400&x0={x - side}&x1={x + side}&y0={y - side}&y1={y + side}",
        "properties": f"/properties?q={number}",
        "text": f"/text?text={text}&in={space}&q={number}",
        "classes": f"/classes?classes=microworld:shape&where={quote(where)}&q={number}",
        "results": f"/results?q={number}",
    }
    return "/s/store" + addresses[kind]


def views(rng: random.Random, images: int) -> Iterator[tuple[str, str]]:
    """Views and their addresses, as often as they are opened."""
    texts = load_pool("microworld").texts
    while True:
        (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
        yield kind, address_of(kind, rng, images, texts)


def visit(
    port: int, seed: int, seconds: float, pause: float, images: int
) -> list[tuple[str, float, int]]:
    """What one client meets, which waits for an answer and, after a pause, asks again."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    rng, until, met = random.Random(seed), time.monotonic() + seconds, []
    for kind, address in views(rng, images):
        if time.monotonic() > until:
            return met
        taken, status, _ = ask(connection, address)
        met.append((kind, taken, status))
        time.sleep(rng.uniform(0, 2 * pause))
    return met


def first_of_each(port: int, images: int) -> None:
    """What is made once: of every view, every head and every column that sorts."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    rng, texts = random.Random(0), load_pool("microworld").texts
    print("| view, the first of it | ms |\n|---|---|")
    for kind in SHARES:
        taken = ask(connection, address_of(kind, rng, images, texts))[0]
        print(f"| {kind} | {1e3 * taken:.0f} |")
    heads = [ask(connection, f"/s/store/head/{head}")[0] for head in HEADS]
    print(f"| another head | {1e3 * median(heads):.0f} |")
    sorts = [ask(connection, f"/s/store/images?sort={column}")[0] for column in COLUMNS]
    print(f"| another column that sorts | {1e3 * median(sorts):.0f} |\n")
    for condition in CONDITIONS:  # their columns are read
        ask(connection, f"/s/store/classes?classes=microworld:shape&where={quote(condition)}")


def load(
    folder: Path,
    clients: int = 20,
    seconds: float = 60,
    pause: float = 0,
    images: int = 1_000_000,
) -> None:
    """Clients at once: medians and 95th percentiles by kind of view, and of all."""
    with explored(folder) as (process, port):
        first_of_each(port, images)
        spawn = multiprocessing.get_context("spawn")
        ready = spawn.Barrier(clients + 1)  # they begin when all are there
        with ProcessPoolExecutor(clients, spawn, ready.wait) as pool:
            asked = [pool.submit(visit, port, n, seconds, pause, images) for n in range(clients)]
            ready.wait()
            cpu, started = _cpu(process), time.perf_counter()
            met = [each for one in asked for each in one.result()]
        elapsed, cpu = time.perf_counter() - started, _cpu(process) - cpu
        rate, each = len(met) / elapsed, 1e3 * cpu / len(met)
        print(f"{len(met):,} answers, {rate:.0f}/s, {each:.1f} CPU ms each")
        bad = {(kind, status) for kind, _, status in met if status != 200}
        print(f"not answered with 200: {bad or 'none'}\n")
        print("| view | answers | median ms | p95 ms | max ms |\n|---|---|---|---|---|")
        for name in [*SHARES, "all pages", "all"]:
            kinds = {"all": set(SHARES), "all pages": set(SHARES) - {"thumbnail"}}.get(name, {name})
            taken = np.array([t for kind, t, _ in met if kind in kinds] or [np.nan]) * 1e3
            middle, high = np.percentile(taken, [50, 95])
            print(f"| {name} | {len(taken)} | {middle:.0f} | {high:.0f} | {taken.max():.0f} |")


def flat(folder: Path, requests: int = 10_000, images: int = 1_000_000) -> None:
    """Memory of the server over many requests of distinct addresses."""
    with explored(folder) as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        kinds = views(random.Random(1), images)
        print("| requests | resident, MB |\n|---|---|")
        for number in range(requests + 1):
            if number % (requests // 10) == 0:
                held = psutil.Process(process.pid).memory_info().rss
                print(f"| {number:,} | {held / 1e6:.0f} |", flush=True)
            ask(connection, next(kinds)[1])


def _cpu(process: subprocess.Popen[str]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    machines.work("here")
    tyro.extras.subcommand_cli_from_dict({"make": make, "start": start, "load": load, "flat": flat})
