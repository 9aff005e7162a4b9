"""The whole extraction job beside its forward pass alone, and an actor's memory by set size.

python -m benchmarks.extract_job speed --photos ../shared/data/imagenet_sample
python -m benchmarks.extract_job memory
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

import psutil
import torch
import tyro

from jobs import extract as job
from pipeline.cluster import machines
from pipeline.extraction import run as extract
from pipeline.extraction.decompose import Decomposer
from pipeline.images.batches import load_batch
from pipeline.models import ModelSpec, load_model
from pipeline.models.arithmetic import TORCH_DTYPE
from storage.store import Store


def _run(config: job.ExtractConfig) -> tuple[Store, list[tuple[float, int]]]:
    """Run the job; returns the store and (seconds, images) as the driver saw them."""
    seen: list[tuple[float, int]] = []
    run = extract.run

    def observed(*args, report, **options):
        def both(progress):
            seen.append((time.perf_counter(), progress.images))
            report(progress)

        return run(*args, report=both, **options)

    extract.run = observed
    try:
        return job.main(config), seen
    finally:
        extract.run = run


def speed(
    photos: Path = Path("../shared/data/imagenet_sample"),
    model: str = "ViT-B-32",
    copies: int = 8,
    batch_size: int = 32,
    shard_size: int = 256,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> None:
    """Decode, forward and write beside the forward pass alone, on the same cores or GPU."""
    with tempfile.TemporaryDirectory() as folder:
        for copy in range(copies):
            shutil.copytree(photos, Path(folder) / "photos" / f"{copy}")
        store, seen = _run(
            job.ExtractConfig(
                images=f"{folder}/photos", model=model, pretrained="none",
                store=f"{folder}/store", shard_size=shard_size, batch_size=batch_size,
                device=device, precision=precision,
            )
        )  # fmt: skip
        # Between the first images and the last: start-up is a cost of the run, not of an image.
        first = next(i for i, (_, images) in enumerate(seen) if images)
        (t0, n0), (t1, n1) = seen[first], seen[-1]
        loaded = load_model(ModelSpec(model, "none"), device, TORCH_DTYPE[precision])
        decomposer = Decomposer(loaded)
        batch = load_batch(store.url, 0, batch_size, loaded.preprocess.resize)
        pixels = loaded.preprocess.to_tensor(torch.from_numpy(batch.loaded.pixels).to(device))
        decomposer(pixels).embedding_be.cpu()
        started, rounds = time.perf_counter(), 10
        for _ in range(rounds):
            made = decomposer(pixels)
        made.embedding_be.cpu()  # waits for a GPU
        forward = rounds * batch_size / (time.perf_counter() - started)
    whole = (n1 - n0) / (t1 - t0)
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else device
    print(f"\n{model}, {precision}, {n1} photographs, {where}\n")
    print("| what | images/s | ratio |\n|---|---|---|")
    print(f"| forward pass alone | {forward:.1f} | 1 |")
    print(f"| decode, forward, write | {whole:.1f} | {whole / forward:.2f} |")


class PeakMemory:
    """Largest private memory of any actor of one class while the block runs, bytes.

    Resident less shared: pictures waiting in Ray's object store are mapped into whoever reads
    them, and are not the actor's.
    """

    def __init__(self, actor: str = "_Actor") -> None:
        self._name = f"ray::{actor}"

    def __enter__(self) -> PeakMemory:
        self.bytes, self._done = 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            for process in psutil.process_iter(["cmdline", "memory_info"]):
                if " ".join(process.info["cmdline"] or []).startswith(self._name):
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
