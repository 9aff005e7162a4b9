"""Describe attention heads by texts whose directions explain most of what they write.

    facet textspan --store out/ --pool general --layers last:4

Moments and text embeddings that are missing are made first. TextSpan is Algorithm 1 of
"Interpreting CLIP's Image Representation via Text-Based Decomposition" (Gandelsman et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.checks import at_place, look, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds
from pipeline.cluster.machines import Where
from pipeline.extraction.plan import parse_layers
from pipeline.heads.choices import Objective
from pipeline.stats.choices import refuse_components
from pipeline.texts import Pool, load_pool

if TYPE_CHECKING:
    from jobs.recipes.textspan import TextSpanRun
    from storage.metadata import Metadata


@dataclass(frozen=True)
class TextSpanConfig:
    """Describe attention heads by texts whose directions explain most of what they write."""

    store: str
    """The store: a local path or an object-store URL."""
    pool: str
    """A text file (one a line), a Parquet file, or general, imagenet-classes, common-words:N,
    microworld."""
    layers: str = "last:4"
    """Layers to describe: all, last:4, 20-23, 1,3."""
    texts_per_head: int = 60
    """Texts to pick for each head; a head with fewer dimensions stops sooner."""
    objective: Objective = "projection"
    """What a text is scored by: the variance along its projection, as in the published
    algorithm, or the variance that its direction explains."""
    top_images: int = 8
    """Images to keep of each text, of those that the head writes most of it for; 0 for none."""
    where: str | None = None
    """Which images describe the heads, by columns of the image table."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: TextSpanConfig) -> TextSpanRun:
    """Check what can be told at once, then describe the heads."""
    choose_place(config)
    pool = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.textspan import run

    return run(config, pool)


def check(config: TextSpanConfig, planned: Metadata | None = None) -> Pool:
    """Refuse what cannot work before any array is read; returns the texts."""
    refuse_bounds(config, texts_per_head=1, top_images=0)
    pool = load_pool(config.pool)
    tables, meta = look(config.store, planned, texts=True)
    parse_layers(config.layers, meta.layers)
    refuse_components(config.store, meta, ("heads",))
    refuse_conditions(tables, where=config.where)
    return pool


if __name__ == "__main__":
    run_job(main, tyro.cli(TextSpanConfig, description=__doc__))
