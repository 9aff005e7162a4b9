"""Texts through a text tower cut at the end of each batch's longest, beside OpenCLIP's own pass."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from pipeline.models import ModelSpec, load_model
from pipeline.texts import load_pool
from pipeline.texts.embedding import encode_texts
from pipeline.texts.encoding import tokenizer_of


@dataclass(frozen=True)
class TextsConfig:
    """Texts a second, one thread, random weights."""

    models: tuple[str, ...] = ("ViT-B-32", "ViT-L-14")
    """OpenCLIP names."""
    pool: str = "general"
    """Where the texts are drawn from."""
    texts: int = 128
    """How many a round."""
    batch: int = 64
    """Texts in one pass."""
    repeats: int = 3
    """Rounds; the ratio is the median of theirs."""


@torch.inference_mode()
def main(config: TextsConfig) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    pool = load_pool(config.pool).texts
    print(
        f"| model, `{config.pool}` | plain, texts/s | cut, texts/s | ratio | largest difference |"
    )
    print("|---|---|---|---|---|")
    for name in config.models:
        model = load_model(ModelSpec(name, "none", 0), "cpu")
        tokenizer, module = tokenizer_of(model), model.module
        seconds = []
        for round_ in range(config.repeats):
            texts = list(np.random.default_rng(round_).choice(pool, config.texts, replace=False))
            started = time.process_time()
            cut = encode_texts(module, tokenizer, texts, config.batch)
            between = time.process_time()
            parts = [texts[i : i + config.batch] for i in range(0, len(texts), config.batch)]
            plain = torch.cat([module.encode_text(tokenizer(p), normalize=True) for p in parts])
            seconds.append((time.process_time() - between, between - started))
            apart = np.abs(cut - plain.numpy()).max()
        ratio = np.median([a / b for a, b in seconds])
        speeds = [config.texts / np.median(s) for s in zip(*seconds, strict=True)]
        print(f"| {name} | {speeds[0]:.1f} | {speeds[1]:.1f} | {ratio:.1f} | {apart:.1e} |")


if __name__ == "__main__":
    main(tyro.cli(TextsConfig, description=__doc__))
