"""Find latents whose generated pictures are given ones, with and without matched units as a guide.

    facet invert --rosetta rosetta/ --images microworld:n=16,seed=9,split=test --out inversions/

The units are those that `facet rosetta --generator …` found the generator to share with another
model. Compares inversion by a perceptual loss alone with the same plus guidance, and with guidance
alone, and edits the generator's own maps, as "Rosetta Neurons: Mining the Common Units in a Model
Zoo" (Dravid et al. 2023) does with StyleGAN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.console import run_job, say_loading
from jobs.settings import refuse_bounds
from pipeline.images.listing import refuse_source
from pipeline.rosetta.mined import refuse_unmined
from storage import urls

if TYPE_CHECKING:
    from jobs.recipes.invert import InvertRun


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


def main(config: InvertConfig) -> InvertRun:
    """Check all that needs no model, then invert."""
    refuse_bounds(config, steps=1, limit=1, starts=1)
    refuse_source(config.images)
    refuse_unmined(urls.absolute(config.rosetta))
    place = config.rosetta if config.out is None else config.out
    urls.check_writable(urls.absolute(place), "out")
    say_loading()
    from jobs.recipes.invert import run

    return run(config)


if __name__ == "__main__":
    run_job(main, tyro.cli(InvertConfig, description=__doc__))
