"""The whole extraction job beside its forward pass alone, and an actor's memory by set size.

python -m benchmarks.extract_job speed --photos ../shared/data/imagenet_sample
python -m benchmarks.extract_job memory
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import psutil
import torch
import tyro

from jobs import extract as job
from pipeline.cluster import machines
from pipeline.extraction import run as extract
from pipeline.extraction.decompose import Decomposer
from pipeline.images.batches import load_batch
from pipeline.images.decoding import Decode
from pipeline.models import ModelSpec, load_model
from pipeline.models.arithmetic import TORCH_DTYPE
from storage.store import Store


def _run(config: job.ExtractConfig) -> tuple[Store, list[tuple[float, int]]]:
    """Run the job; returns the store and (seconds, images) as the driver saw them."""
    seen: list[tuple[float, int]] = []
    run = extract.run

    def observed(*args, report, **options):
        def both(images):
            seen.append((time.perf_counter(), images))
            report(images)

        return run(*args, report=both, **options)

    extract.run = observed
    try:
        return job.main(config), seen
    finally:
        extract.run = run


class Watcher(ABC):
    """Looks at something again and again while the block runs."""

    EVERY: float
    """Seconds."""

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self.EVERY):
            self.look()

    @abstractmethod
    def look(self) -> None:
        """Once."""


class Busy(Watcher):
    """Share of the time that the device was busy while the block ran, sampled twice a second.

    Of a GPU what its driver says, the share of time in which a kernel ran; of CPUs how many of all
    were in use, by whatever process.
    """

    EVERY = 0.5

    def __init__(self, device: str) -> None:
        self.device, self.seen = device, list[tuple[float, float]]()
        psutil.cpu_percent()  # what it tells is since it was asked last

    def look(self) -> None:
        self.seen.append((time.perf_counter(), self._now()))

    def _now(self) -> float:
        if self.device == "cpu":
            return psutil.cpu_percent() / 100
        asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        return float(said.split()[0]) / 100

    def between(self, start: float, stop: float) -> float:
        """Mean of a span of time; NaN where it was not looked."""
        seen = [share for at, share in self.seen if start <= at <= stop]
        return sum(seen) / len(seen) if seen else float("nan")


def speed(
    photos: Path = Path("../shared/data/imagenet_sample"),
    models: tuple[str, ...] = ("ViT-B-32",),
    decodes: tuple[Decode, ...] = ("exact",),
    copies: int = 8,
    batch_size: int = 32,
    shard_size: int = 256,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> None:
    """Decode, forward and write beside the forward pass alone, on the same cores or GPU.

    With as many ``copies`` as keep the job at work for a minute: of all models and ways to decode
    the steady state, from the first images to the last, and its quarters.
    """
    rows = []
    for model in models:
        forward = 0.0
        for decode in decodes:
            with tempfile.TemporaryDirectory() as folder:
                first, *further = (Path(folder) / "photos" / f"{copy}" for copy in range(copies))
                shutil.copytree(photos, first)
                for copy in further:  # links: a minute of a GPU's work would fill a disk
                    shutil.copytree(first, copy, copy_function=os.link)
                with Busy(device) as busy:
                    store, seen = _run(
                        job.ExtractConfig(
                            images=f"{folder}/photos", model=model, pretrained="none",
                            store=f"{folder}/store", shard_size=shard_size,
                            batch_size=batch_size, device=device, precision=precision,
                            decode=decode,
                        )
                    )  # fmt: skip
                forward = forward or _forward(store, model, batch_size, device, precision)
            rows.append(_steady(model, decode, seen, busy, forward))
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else device
    print(f"\n{precision}, batches of {batch_size}, {where}\n")
    print(
        "| model | decode | forward alone, images/s | whole job, images/s | ratio | device busy |"
        " each quarter, images/s | seconds |\n|---|---|---|---|---|---|---|---|"
    )
    print("\n".join(rows))


def _forward(store: Store, model: str, batch_size: int, device: str, precision: str) -> float:
    """Images a second of the decomposing pass alone, over pictures that are there."""
    loaded = load_model(ModelSpec(model, "none"), device, TORCH_DTYPE[precision])
    decomposer = Decomposer(loaded)
    batch = load_batch(store.url, 0, batch_size, loaded.preprocess.resize)
    pixels = loaded.preprocess.to_tensor(torch.from_numpy(batch.loaded.pixels).to(device))
    decomposer(pixels).embedding_be.cpu()
    started, rounds = time.perf_counter(), 10
    for _ in range(rounds):
        made = decomposer(pixels)
    made.embedding_be.cpu()  # waits for a GPU
    return rounds * batch_size / (time.perf_counter() - started)


def _steady(
    model: str, decode: str, seen: list[tuple[float, int]], busy: Busy, forward: float
) -> str:
    """A line of the table: start-up is a cost of the run, not of an image."""
    steady = seen[next(i for i, (_, images) in enumerate(seen) if images) :]
    (t0, n0), (t1, n1) = steady[0], steady[-1]
    whole = (n1 - n0) / (t1 - t0)
    ends = [t0 + (t1 - t0) * quarter / 4 for quarter in range(5)]
    done = [max(n for t, n in steady if t <= end) for end in ends[:-1]] + [n1]
    quarters = [(b - a) / ((t1 - t0) / 4) for a, b in pairwise(done)]
    return (
        f"| {model} | {decode} | {forward:,.1f} | {whole:,.1f} | {whole / forward:.2f} | "
        f"{busy.between(t0, t1):.0%} | {', '.join(f'{q:,.0f}' for q in quarters)} | {t1 - t0:.0f} |"
    )


class PeakMemory(Watcher):
    """Largest private memory of any actor while the block runs, bytes.

    Resident less shared: pictures waiting in Ray's object store are mapped into whoever reads
    them, and are not the actor's.
    """

    EVERY = 0.1

    def __init__(self) -> None:
        self.bytes = 0

    def look(self) -> None:
        for process in psutil.process_iter(["cmdline", "memory_info"]):
            if " ".join(process.info["cmdline"] or []).startswith("ray::_Actor"):
                held = process.info["memory_info"]
                self.bytes = max(self.bytes, held.rss - held.shared)


def memory(sizes: tuple[int, ...] = (1_000, 4_000, 20_000)) -> None:
    """Peak private memory of the actor, on the embedded world, for several sizes of the set."""
    rows = []
    for images in sizes:
        with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak:
            job.main(
                job.ExtractConfig(
                    images=f"microworld:n={images},seed=1,split=test", model="microworld",
                    pretrained="microworld", store=f"{folder}/store", shard_size=250,
                )
            )  # fmt: skip
        rows.append(f"| {images:,} | {peak.bytes / 1e6:.0f} |")
    print("\n".join(["| images | actor's peak, MB |", "|---|---|", *rows]))


if __name__ == "__main__":
    machines.connect()
    tyro.extras.subcommand_cli_from_dict({"speed": speed, "memory": memory})
