"""Find latents whose generated pictures are given ones, with and without matched units as a guide.

    facet invert --rosetta rosetta/ --images microworld:n=16,seed=9,split=test --out inversions/

The units are those that `facet rosetta --generator …` found the generator to share with another
model. Compares inversion by a perceptual loss alone with the same plus guidance, and with guidance
alone, and edits the generator's own maps (Gandelsman 2025, 4.4 and Table 4.1).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pandas as pd
import tyro
from torch import Tensor

from jobs.console import TELLER, console, run_job
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command, refuse_bounds
from pipeline.identity import settings
from pipeline.pages import tables
from pipeline.rosetta.answers import inverted
from pipeline.rosetta.inversion_page import inversion_files
from pipeline.rosetta.inversions import (
    InversionModels,
    Search,
    find_inversions,
    load_models,
    pictures_digest,
    read_targets,
)
from pipeline.rosetta.tables import INVERSIONS
from storage import urls
from storage.results import Result

JOB = "invert"


@dataclass(frozen=True)
class InvertConfig:
    """Find latents whose generated pictures are given ones, with matched units as a guide."""

    rosetta: str
    """Where `facet rosetta --generator …` wrote."""
    images: str
    """The pictures to invert: any source that facet extract takes."""
    out: str | None = None
    """Where results are kept, below ``results/``: a local path or an object-store URL; by default
    where `facet rosetta` wrote."""
    guide: str | None = None
    """The model whose matched units guide; by default the first by name of those that share any."""
    judge: str = "microworld-mae"
    """The model that measures the perceptual distance at the end; not the one of the loss."""
    limit: int = 16
    """Use only the first images of the list."""
    steps: int = 500
    """Optimiser steps."""
    rate: float = 0.1
    """Peak learning rate."""
    alpha: float = 1.0
    """Weight of the penalty on latents, which keeps pictures such as the generator makes."""
    beta: float = 1.0
    """Weight of the guidance beside the perceptual loss."""
    seed: int = 0
    """First of the seeds that the latents start from."""
    starts: int = 4
    """Latents that every picture is sought from: where a search ends hangs much on its start."""


@dataclass(frozen=True, eq=False)
class InvertRun:
    """What was found; ``figures`` as ``storage/SCHEMA.md`` has them."""

    result: Result
    figures: pd.DataFrame


def main(config: InvertConfig) -> InvertRun:
    """Invert the pictures under three losses, measure, edit, keep what is found."""
    started = time.monotonic()
    refuse_bounds(config, steps=1, limit=1, starts=1)
    mined = urls.absolute(config.rosetta)
    out = mined if config.out is None else urls.absolute(config.out)
    urls.check_writable(out, "out")
    models = load_models(mined, config.guide, config.judge)
    targets = read_targets(config.images, config.limit, models.generator)
    identity = identity_of(config, models, targets)
    result = found_or_made(out, JOB, identity, lambda: find(config, out, identity, models, targets))
    found = inverted(result)
    console.print(tables.inversions(found.figures))
    facts = {
        "pictures": f"{found.pictures}, each from {found.starts} starts",
        "shared units": f"{found.pairs} of {found.generator} and {found.guide}",
        **changes(found.figures),
        "page": found.page,
    }
    show_done(facts, time.monotonic() - started, result, command("show", "invert", store=out))
    return InvertRun(result, found.figures)


def identity_of(config: InvertConfig, models: InversionModels, targets: Tensor) -> dict[str, Any]:
    """All that decides what is found."""
    places = ("rosetta", "out", "limit", "guide", "judge")
    return {
        "settings": {n: v for n, v in settings(config).items() if n not in places},
        "mined": models.mined.name,
        "weights": [m.card.weights_digest for m in (models.generator, models.guide, models.judge)],
        "models": models.names,
        "pictures": pictures_digest(targets),
    }


def find(
    config: InvertConfig,
    out: str,
    identity: dict[str, Any],
    models: InversionModels,
    targets: Tensor,
) -> Result:
    """Seek the pictures, and keep figures, pictures and a page."""
    search = Search(config.steps, config.rate, config.alpha, config.beta)
    found = find_inversions(
        models, targets, search, seed=config.seed, starts=config.starts, teller=TELLER
    )
    names = models.names
    lead = (
        f"{names['generator']} led by units it shares with {names['guide']}; {len(targets)} "
        f"pictures of {config.images}, each sought from {config.starts} starts; the first is "
        "shown, the figures are means over all."
    )
    return save(
        out,
        JOB,
        config,
        {**names, "mined": models.mined.url, "pairs": len(models.pairs), "pictures": len(targets)},
        identity=identity,
        tables={"figures": found.figures},
        schemas=INVERSIONS,
        files=inversion_files(found, lead),
    )


def changes(figures: pd.DataFrame) -> dict[str, str]:
    """What guidance adds to the first loss, and how much hangs on the start."""
    last = figures.iloc[-1]
    return {
        "guidance adds": f"{last.psnr_change:+.2f} dB (95%: {last.psnr_low:+.2f} to "
        f"{last.psnr_high:+.2f}), SSIM {last.ssim_change:+.3f} ({last.ssim_low:+.3f} to "
        f"{last.ssim_high:+.3f})",
        "from start to start": f"{last.psnr_start_low:+.2f} to {last.psnr_start_high:+.2f} dB over "
        f"all pictures, and a deviation of {last.psnr_start_std:.2f} dB for one picture",
    }


if __name__ == "__main__":
    run_job(main, tyro.cli(InvertConfig, description=__doc__))
