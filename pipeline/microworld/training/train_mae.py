"""Train the zoo's masked autoencoder: ``python -m pipeline.microworld.training.train_mae``.

It sees pictures and no labels. The loss is the mean squared error of the hidden patches,
each normalised to mean 0 and variance 1, so that the mean predictor's is about 1.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.microworld.cards import WEIGHTS
from pipeline.microworld.zoo import MaskedAutoencoder, architecture_of, prepare

from .shared import batches, half, optimiser_and_schedule, render, save_rounded, write_card
from .zoo_figures import hidden_patches_loss, mae_figures


@dataclass(frozen=True)
class TrainMaeConfig:
    """How the zoo's masked autoencoder is trained."""

    pictures: int = 40_000
    """Pictures of the train split."""
    steps: int = 1_500
    """Optimiser steps."""
    batch: int = 128
    """Pictures a step."""
    lr: float = 2e-3
    """Peak learning rate: 100 steps of warm-up, then a cosine to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors have none."""
    seed: int = 0
    """Seed of the pictures, the initial weights, the order and the masks."""
    test_pictures: int = 4_000
    """Pictures of the test split for the figures."""
    out: Path = WEIGHTS / "mae.safetensors"
    """Where the weights go; the card goes beside them."""


def train(config: TrainMaeConfig) -> None:
    config.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    masks = torch.Generator().manual_seed(config.seed)
    model = MaskedAutoencoder(**architecture_of("mae"))
    pixels, _ = render(config.seed, "train", config.pictures)
    optimiser, schedule = optimiser_and_schedule(
        model, config.lr, config.weight_decay, config.steps, betas=(0.9, 0.95)
    )
    started = time.time()
    for step, rows in enumerate(batches(rng, config.pictures, config.batch, config.steps)):
        # On CPUs the plain attention trains faster than the fused one.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            loss = hidden_patches_loss(model, prepare(pixels[rows]), masks).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == config.steps - 1:
            if step % 500 == 0:
                save_file(half(model), config.out)
            print(
                f"step {step:5d}  loss {loss.item():.4f}  {time.time() - started:.0f} s", flush=True
            )
    seconds = round(time.time() - started)
    save_rounded(model, config.out)
    pixels, scenes = render(config.seed + 1, "test", config.test_pictures)
    figures = mae_figures(model.eval(), prepare(pixels), scenes)
    run = {k: v for k, v in asdict(config).items() if k != "out"}
    command = "python -m pipeline.microworld.training.train_mae"
    write_card(config.out, [{"command": command, "config": run, "seconds": seconds}], figures)


if __name__ == "__main__":
    train(tyro.cli(TrainMaeConfig, description=__doc__))
