"""What the scripts that train the embedded world's models share."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.microworld.cards import card_of
from pipeline.microworld.draw import picture
from pipeline.microworld.world import PLANTED_RATE, Scene


def render(
    seed: int, split: str, n: int, planted_rate: float = PLANTED_RATE
) -> tuple[torch.Tensor, list[Scene]]:
    """Pictures ``0 … n-1`` as (n, 3, 64, 64) uint8, and their scenes."""
    with multiprocessing.Pool() as pool:
        draw = partial(_draw, planted_rate, seed, split)
        drawn = pool.map(draw, range(n), chunksize=256)
    pixels = torch.from_numpy(np.stack([p for p, _ in drawn])).permute(0, 3, 1, 2).contiguous()
    return pixels, [scene for _, scene in drawn]


def _draw(planted_rate: float, seed: int, split: str, index: int) -> tuple[np.ndarray, Scene]:
    pixels, _, scene = picture(seed, split, index, planted_rate)
    return pixels, scene


def batches(
    rng: np.random.Generator, pictures: int, batch: int, steps: int
) -> Iterator[np.ndarray]:
    """Row numbers of each step: one shuffled pass after the other, a short rest is dropped."""
    order = np.empty(0, int)
    for _ in range(steps):
        if len(order) < batch:
            order = rng.permutation(pictures)
        rows, order = order[:batch], order[batch:]
        yield rows


def optimiser_and_schedule(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    steps: int,
    betas: tuple[float, float] = (0.9, 0.98),
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW that decays matrices only; 100 steps of warm-up, then a cosine to zero."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay},
         {"params": rest, "weight_decay": 0.0}],
        lr=lr, betas=betas, fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, total_iters=100),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps - 100, 1)),
        ],
        milestones=[100],
    )
    return optimiser, schedule


def half(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict in float16, as it is shipped; counters stay integers."""
    state = model.state_dict().items()
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state}


def save_rounded(model: nn.Module, out: Path) -> None:
    """Write the weights in float16 and leave the model with exactly what was written."""
    state = half(model)
    save_file(state, out)
    model.load_state_dict(state)


def write_card(weights: Path, made_by: list[dict], figures: dict[str, float]) -> None:
    """Put the card beside the weights: digest, runs that made them, figures; print the figures."""
    card = {
        "weights": weights.name,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "made_by": made_by,
        "torch": torch.__version__.split("+")[0],
        "figures": figures,
    }
    card_of(weights).write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
