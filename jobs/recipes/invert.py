"""The recipe of ``facet invert``: latents whose pictures are given ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from jobs.console import TELLER, console
from jobs.invert import InvertConfig
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
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


@dataclass(frozen=True, eq=False)
class InvertRun:
    """What was found; ``figures`` as ``storage/SCHEMA.md`` has them."""

    result: Result
    figures: pd.DataFrame


def run(config: InvertConfig) -> InvertRun:
    """Invert the pictures under three losses, measure, edit, keep what is found."""
    started = time.monotonic()
    mined = urls.absolute(config.rosetta)
    out = mined if config.out is None else urls.absolute(config.out)
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
