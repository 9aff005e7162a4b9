"""Train the embedded world's CLIP: ``python -m pipeline.microworld.training.train_clip``.

Writes ``weights/clip.safetensors`` (float16) and ``weights/clip.card.json``, which holds
the weights' digest, the command and seed that made them, and their figures on pictures
that no training step saw. The shipped weights took two runs on
one core, 45 and 17 minutes; the card says with what.
``MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=10737418240`` in the environment
saves a fifth of it.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.lean import open_clip, torchvision
from pipeline.microworld.captions import caption
from pipeline.microworld.cards import WEIGHTS, card_of

from .figures import zero_shot_figures
from .shared import batches, half, optimiser_and_schedule, render, save_rounded, write_card


@dataclass(frozen=True)
class TrainConfig:
    """How the embedded CLIP is trained."""

    pictures: int = 40_000
    """Pictures of the train split."""
    steps: int = 1_500
    """Optimiser steps."""
    batch: int = 256
    """Pictures a step."""
    lr: float = 1e-3
    """Peak learning rate: 100 steps of warm-up, then a cosine to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors and scalars have none."""
    seed: int = 0
    """Seed of the pictures, the captions, the initial weights and the order."""
    test_pictures: int = 4_000
    """Pictures of the test split for the figures."""
    start: Path | None = None
    """Weights to go on from, with their card beside them; by default random ones."""
    out: Path = WEIGHTS / "clip.safetensors"
    """Where the weights go; the card goes beside them."""


def preprocess(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pictures to what open_clip's transform gives for pictures of the model's size."""
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return torchvision.transforms.functional.normalize(pixels.float() / 255, list(mean), list(std))


def train(config: TrainConfig) -> None:
    config.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    architecture = json.loads((WEIGHTS / "clip.json").read_text())
    model = open_clip.CLIP(**architecture)
    if config.start is not None:
        model.load_state_dict({k: v.float() for k, v in load_file(config.start).items()})
    tokenizer = open_clip.SimpleTokenizer(context_length=architecture["text_cfg"]["context_length"])
    pixels, scenes = render(config.seed, "train", config.pictures)
    optimiser, schedule = optimiser_and_schedule(
        model, config.lr, config.weight_decay, config.steps
    )
    started = time.time()
    for step, rows in enumerate(batches(rng, config.pictures, config.batch, config.steps)):
        texts = tokenizer([caption(scenes[i], rng) for i in rows])
        # On CPUs the plain attention trains a third faster than the fused one.
        with sdpa_kernel(SDPBackend.MATH):
            image, text, scale = model(preprocess(pixels[rows]), texts)
        logits = scale * image @ text.T
        target = torch.arange(len(rows))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        if step % 50 == 0 or step == config.steps - 1:
            if step % 500 == 0:
                save_file(half(model), config.out)
            print(
                f"step {step:5d}  loss {loss.item():.3f}  {time.time() - started:.0f} s", flush=True
            )
    write(model, config, time.time() - started)


def write(model: open_clip.CLIP, config: TrainConfig, seconds: float) -> None:
    """Round the weights to float16, measure what will be shipped, and write both files."""
    save_rounded(model, config.out)
    pixels, scenes = render(config.seed + 1, "test", config.test_pictures)
    figures = zero_shot_figures(model.eval(), preprocess(pixels), scenes)
    before = json.loads(card_of(config.start).read_text())["made_by"] if config.start else []
    run = {k: v for k, v in asdict(config).items() if k != "out"}
    run["start"] = hashlib.sha256(config.start.read_bytes()).hexdigest() if config.start else None
    command = "python -m pipeline.microworld.training.train_clip"
    this = {"command": command, "config": run, "seconds": round(seconds)}
    write_card(config.out, [*before, this], figures)


if __name__ == "__main__":
    train(tyro.cli(TrainConfig, description=__doc__))
