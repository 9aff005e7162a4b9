"""Train the zoo's CNN on classes: ``python -m pipeline.microworld.training.train_cnn``.

One classifier for each attribute of ``world.CLASSIFIED``, their cross-entropies summed.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from pipeline.microworld.cards import WEIGHTS
from pipeline.microworld.world import ATTRIBUTES, CLASSIFIED, Scene
from pipeline.microworld.zoo import Cnn, architecture_of, logits_of, prepare

from .shared import batches, optimiser_and_schedule, render, save_rounded, write_card
from .zoo_figures import cnn_figures


@dataclass(frozen=True)
class TrainCnnConfig:
    """How the zoo's CNN is trained."""

    pictures: int = 40_000
    """Pictures of the train split."""
    steps: int = 1_300
    """Optimiser steps."""
    batch: int = 128
    """Pictures a step."""
    lr: float = 2e-3
    """Peak learning rate: 100 steps of warm-up, then a cosine to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors have none."""
    seed: int = 0
    """Seed of the pictures, the initial weights and the order."""
    test_pictures: int = 4_000
    """Pictures of the test split for the figures."""
    out: Path = WEIGHTS / "cnn.safetensors"
    """Where the weights go; the card goes beside them."""


def classes_of(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Class numbers (n,) of every attribute of ``CLASSIFIED``."""
    return {
        name: torch.tensor([ATTRIBUTES[name].index(getattr(s, name)) for s in scenes])
        for name in CLASSIFIED
    }


def train(config: TrainCnnConfig) -> None:
    config.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    model = Cnn(**architecture_of("cnn")).to(memory_format=torch.channels_last)
    pixels, scenes = render(config.seed, "train", config.pictures)
    truth = classes_of(scenes)
    optimiser, schedule = optimiser_and_schedule(
        model, config.lr, config.weight_decay, config.steps
    )
    started = time.time()
    for step, rows in enumerate(batches(rng, config.pictures, config.batch, config.steps)):
        images = prepare(pixels[rows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(images)
        said = logits_of(output.float())
        losses = {name: F.cross_entropy(said[name], truth[name][rows]) for name in CLASSIFIED}
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == config.steps - 1:
            told = "  ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
            print(f"step {step:5d}  {told}  {time.time() - started:.0f} s", flush=True)
    seconds = round(time.time() - started)
    save_rounded(model, config.out)
    pixels, scenes = render(config.seed + 1, "test", config.test_pictures)
    figures = cnn_figures(model.eval(), prepare(pixels), scenes)
    run = {k: v for k, v in asdict(config).items() if k != "out"}
    command = "python -m pipeline.microworld.training.train_cnn"
    write_card(config.out, [{"command": command, "config": run, "seconds": seconds}], figures)


if __name__ == "__main__":
    train(tyro.cli(TrainCnnConfig, description=__doc__))
