"""Train the embedded world's CLIP: ``python -m pipeline.microworld.training.train_clip``.

Writes ``weights/clip.safetensors`` (float16) and ``weights/clip.card.json``, which holds
the weights' digest, the command and seed that made them, and their figures on pictures
that no training step saw. It runs on a GPU if there is one. The shipped weights took two
runs, the second of the texts alone; the card says with what, and where.
``MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=10737418240`` in the environment
saves a fifth of it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.lean import open_clip, torchvision
from pipeline.microworld.captions import caption
from pipeline.microworld.cards import WEIGHTS, card_of
from pipeline.microworld.world import PLANTED_RATE, Scene

from .figures import zero_shot_figures
from .shared import batches, optimiser_and_schedule, render, save_rounded, write_card


@dataclass(frozen=True)
class TrainConfig:
    """How the embedded CLIP is trained."""

    pictures: int = 40_000
    """Pictures of the train split."""
    planted_rate: float = PLANTED_RATE
    """How many of the planted pair have their background, of 1."""
    tower: Literal["both", "text"] = "both"
    """What is trained; of pictures that are read by a tower at rest, each is read once."""
    steps: int = 2_400
    """Optimiser steps."""
    batch: int = 256
    """Pictures a step."""
    lr: float = 1e-3
    """Peak learning rate: 100 steps of warm-up, then a cosine to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors and scalars have none."""
    seed: int = 0
    """Seed of the captions, the initial weights and the order."""
    pictures_seed: int = 0
    """Seed of the pictures; those for the figures have the next one."""
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


class WordTokenizer:
    """open_clip's tokenizer for captions: a word's tokens are looked up once, as it repeats."""

    def __init__(self, context_length: int) -> None:
        self.whole = open_clip.SimpleTokenizer(context_length=context_length)
        self.length = context_length
        self.of_word = functools.cache(self.whole.encode)

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Tokens (n, context length) int64 of captions in lower case, their words parted by one
        space."""
        tokens = np.zeros((len(captions), self.length), np.int64)
        for row, text in zip(tokens, captions, strict=True):
            words = itertools.chain.from_iterable(map(self.of_word, text.split(" ")))
            said = [self.whole.sot_token_id, *words, self.whole.eot_token_id]
            row[: len(said)] = said
        return torch.from_numpy(tokens)


def train(config: TrainConfig) -> None:
    config.out.parent.mkdir(parents=True, exist_ok=True)
    model = new_model(config, json.loads((WEIGHTS / "clip.json").read_text()))
    pixels, scenes = render(config.pictures_seed, "train", config.pictures, config.planted_rate)
    started = time.time()
    fit(model.to(device()), pixels.to(device()), scenes, config)
    write(model.cpu(), config, time.time() - started)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def new_model(config: TrainConfig, architecture: dict) -> open_clip.CLIP:
    """What training starts from."""
    torch.manual_seed(config.seed)
    model = open_clip.CLIP(**architecture)
    if config.start is not None:
        model.load_state_dict({k: v.float() for k, v in load_file(config.start).items()})
    return model


def fit(
    model: open_clip.CLIP, pixels: torch.Tensor, scenes: Sequence[Scene], config: TrainConfig
) -> None:
    """Train in place, where the model and the pictures are."""
    rng = np.random.default_rng(config.seed)
    tokenizer = WordTokenizer(model.context_length)
    optimiser, schedule = optimiser_and_schedule(
        model, config.lr, config.weight_decay, config.steps
    )
    on = pixels.device
    target = torch.arange(config.batch, device=on)
    # On CPUs the plain attention trains a third faster than the fused one.
    attention = [SDPBackend.MATH]
    if on.type == "cuda":
        attention = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        torch.set_float32_matmul_precision("high")
    units = images(model, pixels) if config.tower == "text" else None
    started = time.time()
    for step, rows in enumerate(batches(rng, config.pictures, config.batch, config.steps)):
        texts = tokenizer([caption(scenes[i], rng) for i in rows])
        chosen = torch.from_numpy(rows).to(on)
        with sdpa_kernel(attention):
            text = model.encode_text(texts.to(on), normalize=True)
            if units is None:
                image = model.encode_image(preprocess(pixels[chosen]), normalize=True)
            else:
                image = units[chosen]
        logits = model.logit_scale.exp() * image @ text.T
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        if step % 50 == 0 or step == config.steps - 1:
            print(
                f"step {step:5d}  loss {loss.item():.3f}  {time.time() - started:.0f} s", flush=True
            )


@torch.no_grad()
def images(model: open_clip.CLIP, pixels: torch.Tensor) -> torch.Tensor:
    """Unit embeddings (n, embed) of all pictures."""
    return torch.cat([model.encode_image(preprocess(b), normalize=True) for b in pixels.split(250)])


def write(model: open_clip.CLIP, config: TrainConfig, seconds: float) -> None:
    """Round the weights to float16, measure what will be shipped, and write both files."""
    save_rounded(model, config.out)
    pixels, scenes = render(config.pictures_seed + 1, "test", config.test_pictures)
    figures = zero_shot_figures(model.eval(), preprocess(pixels), scenes)
    before = json.loads(card_of(config.start).read_text())["made_by"] if config.start else []
    run = {k: v for k, v in asdict(config).items() if k != "out"}
    run["start"] = hashlib.sha256(config.start.read_bytes()).hexdigest() if config.start else None
    command = "python -m pipeline.microworld.training.train_clip"
    name = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    this = {"command": command, "config": run, "seconds": round(seconds), "device": name}
    write_card(config.out, [*before, this], figures)


if __name__ == "__main__":
    train(tyro.cli(TrainConfig, description=__doc__))
