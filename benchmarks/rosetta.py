"""Correlating units of two models: at the smaller map size beside interpolating every map.

``OMP_NUM_THREADS=1 python -m benchmarks.rosetta speed`` compares the two ways on one core;
``python -m benchmarks.rosetta memory`` runs the job on two models of 10,000 units and measures
the memory of all its processes.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import psutil
import torch
import torch.nn.functional as F
import tyro
from torch import nn

from jobs import rosetta
from pipeline.models import Preprocess
from pipeline.rosetta.maps import MapReader, Tokens
from pipeline.rosetta.models import Loaded
from pipeline.rosetta.sums import HalfMaps, Layout, PairSums
from storage.rosetta import Card, UnitLayer, tiles

UNITS = "FACET_UNITS"
RESNET50 = tuple(UnitLayer(f"layer{i + 1}", 256 << i, 56 >> i, 56 >> i) for i in range(4))
VIT_B = tuple(UnitLayer(f"blocks.{i}.mlp.act", 3072, 14, 14) for i in range(12))


@dataclass(frozen=True)
class Speed:
    """ResNet-50's four stages against the MLPs of ViT-B/16."""

    images: int = 10
    """Images in one batch."""
    repeats: int = 3
    """Rounds; the medians are printed."""
    device: str = "cpu"
    """Where to run."""


@dataclass(frozen=True)
class Memory:
    """The job, on two models of many units with random weights."""

    units: int = 10_000
    """Units of each model."""
    images: int = 128
    """Pictures of the embedded world."""


Command = (
    Annotated[Speed, tyro.conf.subcommand("speed")]
    | Annotated[Memory, tyro.conf.subcommand("memory")]
)


def main(config: Speed | Memory) -> None:
    if isinstance(config, Speed):
        speed(config)
    else:
        memory(config)


def direct(
    maps_a: list[torch.Tensor], maps_b: list[torch.Tensor], moments: dict[int, torch.Tensor]
) -> torch.Tensor:
    """Scores of one batch as the published code finds them: every pair of layers is interpolated.

    Parameters
    ----------
    maps_a, maps_b : list of (b, units, height, width)
    moments : dict
        By ``id`` of the maps: mean and standard deviation of every unit (2, units).
    """
    rows = []
    for a in maps_a:
        row = []
        for b in maps_b:
            size = tuple(max(s, t) for s, t in zip(a.shape[2:], b.shape[2:], strict=True))
            wide = []
            for maps in (a, b):
                mean, std = moments[id(maps)]
                up = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
                up = (up - mean[:, None, None]) / std[:, None, None]
                wide.append(up.permute(1, 0, 2, 3).flatten(1))
            row.append(wide[0] @ wide[1].T / wide[0].shape[1])
        rows.append(torch.cat(row, 1))
    return torch.cat(rows)


def speed(config: Speed) -> None:
    generator = torch.Generator().manual_seed(0)
    cards = [Card(n, "", layers, {}) for n, layers in (("a", RESNET50), ("b", VIT_B))]
    # As the models give them: a CNN's maps with their channels first, a ViT's tokens last.
    cnn, vit = (
        [
            torch.randn((config.images, *shape(x)), generator=generator).relu_().to(config.device)
            for x in card.layers
        ]
        for card, shape in zip(
            cards,
            (lambda x: (x.units, x.height, x.width), lambda x: (1 + x.height * x.width, x.units)),
            strict=True,
        )
    )
    first, tokens = MapReader("first"), MapReader("tokens", Tokens((14, 14), 1))
    planes = [tokens(t).permute(0, 3, 1, 2).contiguous() for t in vit]
    moments = {id(m): torch.stack([m.mean((0, 2, 3)), m.std((0, 2, 3))]) for m in [*cnn, *planes]}
    kept = [PairSums(Layout(*cards, tile), config.device) for tile in tiles(*cards)]

    def ours() -> None:
        a, b = HalfMaps([first(m) for m in cnn]), HalfMaps([tokens(t) for t in vit])
        for sums in kept:
            sums.add(0, a, b)

    def now() -> float:
        if config.device == "cpu":
            return time.process_time()  # other work does not stretch it
        torch.cuda.synchronize()
        return time.perf_counter()

    seconds: dict[str, list[float]] = {"direct": [], "ours": []}
    for round_ in range(-1, config.repeats):  # round -1 warms up
        for name, run in (("ours", ours), ("direct", lambda: direct(cnn, planes, moments))):
            start = now()
            run()
            if round_ >= 0:
                seconds[name].append(now() - start)
    ratios = sorted(d / o for d, o in zip(seconds["direct"], seconds["ours"], strict=True))
    middle = {n: sorted(s)[len(s) // 2] for n, s in seconds.items()}
    print(
        f"ResNet-50 stages ({cards[0].units:,} units) × ViT-B/16 MLPs ({cards[1].units:,} units), "
        f"{config.images} images, float32, {config.device}, {torch.get_num_threads()} thread(s), "
        f"{platform.machine()}\n"
    )
    print("| what | seconds | ratio |\n|---|---|---|")
    print(f"| every map interpolated, then multiplied | {middle['direct']:.3f} | 1 |")
    ratio = ratios[len(ratios) // 2]
    print(f"| multiplied at the smaller size | {middle['ours']:.3f} | {ratio:.1f} |")


def wide(size: int, seed: int) -> Loaded:
    """A model of one layer with ``FACET_UNITS`` units, on maps of ``size`` / 16 a side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(3, int(os.environ[UNITS]), 16, 16), nn.ReLU())
    return Loaded(
        module, Preprocess((size, size), (0.5,) * 3, (0.5,) * 3, "bilinear", "shortest", 0)
    )


fine = partial(wide, 224, 0)
coarse = partial(wide, 112, 1)


def tree_bytes() -> int:
    """Memory of this process and all that it started, what they share counted once."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def memory(config: Memory) -> None:
    os.environ[UNITS] = str(config.units)
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.5):
            peak = max(peak, tree_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rosetta.main(
                rosetta.RosettaConfig(
                    models=("import:benchmarks.rosetta:coarse", "import:benchmarks.rosetta:fine"),
                    out=folder,
                    images=f"microworld:n={config.images}",
                    shard_size=config.images // 2,
                )
            )
            kept = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    finally:
        over.set()
        thread.join()
    seconds = time.perf_counter() - start
    print(
        f"\n| units | images | seconds | largest memory of all processes, GB | kept, GB |\n"
        f"|---|---|---|---|---|\n| {config.units:,} × {config.units:,} | {config.images} | "
        f"{seconds:.0f} | {peak / 1e9:.2f} | {kept / 1e9:.2f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Command))
