"""Throughput of the decomposition beside plain open_clip: ``python -m benchmarks.decompose``.

The ways are timed in turn, batch by batch, on the same images and threads. What counts is the
median over rounds of the ratio to plain within the round, so that a busy machine slows both.
The bars: heads + mlps ≥ 0.95, with tokens ≥ 0.85.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import tyro

from pipeline.extraction.decompose import Decomposer
from pipeline.models import ModelSpec, load_model


@dataclass(frozen=True)
class Config:
    """What to measure."""

    models: tuple[str, ...] = ("ViT-B-16", "ViT-B-32", "ViT-L-14")
    """open_clip names; the weights are random."""
    batch: int = 4
    """Images a batch."""
    repeats: int = 7
    """Rounds; each way runs one batch a round."""
    token_layers: int = 4
    """How many last layers the tokens sum over."""
    device: str = "cpu"
    """Where to run."""
    dtype: str = "float32"
    """In which matrix products run; plain open_clip is converted to it as a whole."""
    threads: int = 1
    """CPU threads."""


def main(config: Config) -> None:
    """Print a Markdown table, a row a model."""
    torch.set_num_threads(config.threads)
    print(
        f"{config.device}, {config.dtype}, {config.threads} thread(s), batch {config.batch}, "
        f"medians of {config.repeats}; images/s (median ratio to plain)\n"
    )
    names = ["plain encode_image", "heads + mlps", f"+ tokens, last {config.token_layers} layers"]
    if config.dtype != "float32":
        names.insert(1, "plain, autocast")
    print(f"| model | {' | '.join(names)} | residual, largest |\n{'|---' * (len(names) + 2)}|")
    for name in config.models:
        print(row(name, config), flush=True)


def row(name: str, config: Config) -> str:
    """One row of the table."""
    dtype = getattr(torch, config.dtype)
    model = load_model(ModelSpec(name, "none"), config.device, dtype)
    plain = deepcopy(model.module).to(dtype)
    last = range(model.layers - config.token_layers, model.layers)
    parts = Decomposer(model)
    ways: list[Callable[[torch.Tensor], object]] = [
        torch.inference_mode()(lambda images: plain.encode_image(images.to(dtype))),
        parts,
        Decomposer(model, token_layers=tuple(last)),
    ]
    if dtype != torch.float32:  # whose residual stream is float32, as the decomposition's
        ways.insert(1, lambda images: _autocast(model.module, images, dtype))
    images = torch.randn(config.batch, 3, *model.preprocess.size, device=config.device)
    residual = parts(images).residual_b.max().item()
    seconds: list[list[float]] = [[] for _ in ways]
    for round_ in range(-1, config.repeats):  # round -1 warms up
        for way, taken in zip(ways, seconds, strict=True):
            elapsed = _time(way, images)
            if round_ >= 0:
                taken.append(elapsed)
    by_plain, *others = seconds
    cells = [f"{config.batch / median(by_plain):.2f}"]
    for taken in others:
        ratio = median(p / t for p, t in zip(by_plain, taken, strict=True))
        cells.append(f"{config.batch / median(taken):.2f} ({ratio:.3f})")
    return f"| {name} | {' | '.join(cells)} | {residual:.1e} |"


@torch.inference_mode()
def _autocast(module: Any, images: torch.Tensor, dtype: torch.dtype) -> None:
    with torch.autocast(images.device.type, dtype):
        module.encode_image(images)


def _time(way: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    _wait(images)
    started = time.perf_counter()
    way(images)
    _wait(images)
    return time.perf_counter() - started


def _wait(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(tyro.cli(Config))
