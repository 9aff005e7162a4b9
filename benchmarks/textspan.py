"""TextSpan in covariance space beside Algorithm 1 on data matrices, as a Markdown table.

``OMP_NUM_THREADS=1 python -m benchmarks.textspan`` compares them on one core.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass

import numpy as np
import tyro

from pipeline.heads.textspan import textspan
from tests.pipeline.heads.direct import direct_textspan


@dataclass(frozen=True)
class Config:
    """What is timed; the defaults are ViT-L/14's last four layers and the published pool's size."""

    heads: int = 64
    """Heads described at once by the fast algorithm."""
    texts: int = 3498
    """Candidate texts."""
    rounds: int = 60
    """Texts picked per head."""
    head_dim: int = 64
    """Numbers that a head writes."""
    embed: int = 768
    """Width of the joint space."""
    images: tuple[int, ...] = (1_000, 5_000)
    """Numbers of images at which the direct algorithm is timed."""
    extrapolate: int = 50_000
    """Number of images for which its time is extrapolated from the two largest, linearly."""
    direct_rounds: int = 3
    """Rounds that are really run of the direct algorithm; their mean time is scaled."""


def main(config: Config) -> None:
    rng = np.random.default_rng(0)
    shape = (config.heads, config.head_dim, config.embed)
    head_map = rng.normal(size=shape) / config.embed**0.5
    texts = rng.normal(size=(config.texts, config.embed))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    mixing = rng.normal(size=(config.heads, config.head_dim, config.head_dim))
    mixing *= np.geomspace(1, 0.05, config.head_dim)
    covariance = mixing @ mixing.swapaxes(1, 2)

    start = time.perf_counter()
    textspan(covariance, head_map, texts, config.rounds)
    fast = time.perf_counter() - start
    rows = [
        (f"covariance space, {config.heads} heads", "any", f"{fast:.2f}", "measured"),
        ("covariance space, per head", "any", f"{fast / config.heads:.3f}", "measured"),
    ]

    direct: dict[int, float] = {}
    for n in config.images:
        data = rng.normal(size=(n, config.head_dim)) @ mixing[0].T @ head_map[0]
        direct[n] = _direct_seconds(config, data, texts)
        note = f"{config.direct_rounds} rounds measured and scaled to {config.rounds}"
        rows.append(("Algorithm 1 on data, one head", f"{n:,}", f"{direct[n]:.1f}", note))
    if len(direct) > 1:
        (n1, t1), (n2, t2) = sorted(direct.items())[-2:]
        seconds = t2 + (t2 - t1) / (n2 - n1) * (config.extrapolate - n2)
        note = "extrapolated, linear in images"
        rows.append(
            ("Algorithm 1 on data, one head", f"{config.extrapolate:,}", f"{seconds:.0f}", note)
        )

    print(
        f"{config.texts:,} texts, {config.rounds} rounds, head_dim {config.head_dim}, embed "
        f"{config.embed}, float64, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, "
        f"{platform.machine()}\n"
    )
    print("| What | Images | Seconds | How |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def _direct_seconds(config: Config, data: np.ndarray, texts: np.ndarray) -> float:
    """Seconds of all rounds: what precedes them, plus a round's time as often as there are."""
    start = time.perf_counter()
    direct_textspan(data, texts, 0)
    before = time.perf_counter() - start
    start = time.perf_counter()
    direct_textspan(data, texts, config.direct_rounds)
    each = (time.perf_counter() - start - before) / config.direct_rounds
    return before + each * config.rounds


if __name__ == "__main__":
    main(tyro.cli(Config))
