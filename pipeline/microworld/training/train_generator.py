"""Train the zoo's generator: ``python -m pipeline.microworld.training.train_generator``.

First a variational autoencoder: its encoder is one linear layer on the last maps of the
zoo's CNN (train that one first), and its error is measured in pixels and in the CNN's maps.
Then a flow learns which codes pictures have, so that standard normal latents give codes
that the decoder knows.
Sources: Kingma & Welling 2014, Larsen et al. 2016; Dai & Wipf 2019 for the second stage.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from torch import nn

from pipeline.microworld.cards import WEIGHTS
from pipeline.microworld.zoo import Cnn, Generator, architecture_of, load_zoo, prepare

from .shared import batches, half, optimiser_and_schedule, render, save_rounded, write_card
from .zoo_figures import generator_figures


@dataclass(frozen=True)
class TrainGeneratorConfig:
    """How the zoo's generator is trained."""

    pictures: int = 40_000
    """Pictures of the train split."""
    steps: int = 1_500
    """Optimiser steps of the autoencoder."""
    batch: int = 64
    """Pictures a step."""
    lr: float = 2e-3
    """Peak learning rate: 100 steps of warm-up, then a cosine to zero."""
    kl: float = 0.003
    """Weight of a nat of a code's information, reached after 300 steps."""
    flow_steps: int = 3_000
    """Optimiser steps of the flow, of 512 codes each, at half the learning rate."""
    seed: int = 0
    """Seed of the pictures, the initial weights, the order and the noise."""
    test_pictures: int = 4_000
    """Pictures of the test split for the figures."""
    out: Path = WEIGHTS / "generator.safetensors"
    """Where the weights go; the card goes beside them."""


def train(config: TrainGeneratorConfig) -> None:
    config.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    cnn = cast(Cnn, load_zoo("cnn").to(memory_format=torch.channels_last))
    model = Generator(**architecture_of("generator")).to(memory_format=torch.channels_last)
    pixels, _ = render(config.seed, "train", config.pictures)
    started = time.time()
    codes = autoencode(model, cnn, pixels, rng, config)
    bend(model, codes, rng, config)
    seconds = round(time.time() - started)
    save_rounded(model, config.out)
    pixels, _ = render(config.seed + 1, "test", config.test_pictures)
    figures = generator_figures(model.eval(), cnn, prepare(pixels))
    run = {k: v for k, v in asdict(config).items() if k != "out"}
    command = "python -m pipeline.microworld.training.train_generator"
    write_card(config.out, [{"command": command, "config": run, "seconds": seconds}], figures)


def autoencode(
    model: Generator,
    cnn: Cnn,
    pixels: torch.Tensor,
    rng: np.random.Generator,
    config: TrainGeneratorConfig,
) -> torch.Tensor:
    """Train decoder and encoder; return a whitened code (pictures, latent) for every picture."""
    spread = nn.Linear(model.code.in_features, model.latent)
    nn.init.zeros_(spread.weight)
    optimiser, schedule = optimiser_and_schedule(
        nn.ModuleList([model, spread]), config.lr, 0.01, config.steps, betas=(0.9, 0.99)
    )
    with torch.no_grad():
        maps = cnn.stages(picked(pixels, np.arange(500)))
    sizes = [m.square().mean((0, 2, 3), keepdim=True).sqrt() + 1e-3 for m in maps]
    started = time.time()
    for step, rows in enumerate(batches(rng, config.pictures, config.batch, config.steps)):
        real = picked(pixels, rows)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                real_maps = cnn.stages(real)
            seen = model.seen(real_maps)
            mean, log_variance = model.code(seen).float(), spread(seen).float()
            made = model.paint(mean + (log_variance / 2).exp() * torch.randn_like(mean))
            made_maps = cnn.stages(made)
        apart = [
            ((m.float() - r.float()) / s).square().mean()
            for m, r, s in zip(made_maps, real_maps, sizes, strict=True)
        ]
        error = 3 * (made.float() - real).abs().mean() + torch.stack(apart).sum()
        nats = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        optimiser.zero_grad(set_to_none=True)
        (error + config.kl * min(1, step / 300) * nats).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == config.steps - 1:
            if step % 500 == 0:
                save_file(half(model), config.out)
            told = f"error {error.item():.3f}  nats {nats.item():.1f}"
            print(f"step {step:5d}  {told}  {time.time() - started:.0f} s", flush=True)
    model.eval()
    with torch.no_grad():
        codes = []
        for rows in np.array_split(np.arange(len(pixels)), -(-len(pixels) // 250)):
            seen = model.seen(cnn.stages(picked(pixels, rows)))
            mean = model.code(seen)
            codes.append(mean + (spread(seen) / 2).exp() * torch.randn_like(mean))
    return whiten(model, torch.cat(codes))


def picked(pixels: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Prepared pictures in the memory format that convolutions like on CPUs."""
    return prepare(pixels[rows]).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def whiten(model: Generator, codes: torch.Tensor) -> torch.Tensor:
    """Codes of mean 0 and covariance 1; the map is folded into encoder and decoder."""
    mean, root = codes.mean(0), torch.linalg.cholesky(codes.T.cov())
    first: Any = model.start[0]
    first.bias += first.weight @ mean
    first.weight.copy_(first.weight @ root)
    inverse = torch.linalg.inv(root)
    model.code.bias.copy_(inverse @ (model.code.bias - mean))
    model.code.weight.copy_(inverse @ model.code.weight)
    return (codes - mean) @ inverse.T


def bend(
    model: Generator, codes: torch.Tensor, rng: np.random.Generator, config: TrainGeneratorConfig
) -> None:
    """Train the flow for the greatest likelihood of the codes under standard normal latents."""
    steps = config.flow_steps
    optimiser, schedule = optimiser_and_schedule(model.flow, config.lr / 2, 0.01, steps)
    size = min(512, len(codes))
    started = time.time()
    for step, rows in enumerate(batches(rng, len(codes), size, steps)):
        latents, determinant = model.latents_of(codes[rows])
        nats = (latents.square().sum(1) / 2 - determinant).mean()
        optimiser.zero_grad(set_to_none=True)
        nats.backward()
        nn.utils.clip_grad_norm_(model.flow.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
            took = f"{time.time() - started:.0f} s"
            print(
                f"flow {step:5d}  nats {nats.item():.3f} of {codes.shape[1] / 2}  {took}",
                flush=True,
            )


if __name__ == "__main__":
    train(tyro.cli(TrainGeneratorConfig, description=__doc__))
