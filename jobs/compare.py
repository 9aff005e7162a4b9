"""Two sets of images in words: which heads tell them apart, and texts along the difference.

    facet compare --store out/ --a "label == 'cat'" --b "label == 'dog'" --pool general

For every head, MLP and the embedding: how far the means of the two sets lie apart, how clearly
(Fisher's ratio), and the texts that explain the difference, each towards one of the sets. Moments
and text embeddings that are missing are made first; the images are not looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.checks import at_place, look, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, pool_of, refuse_bounds
from pipeline.cluster.machines import Where
from pipeline.extraction.plan import parse_layers
from pipeline.stats.choices import refuse_components
from pipeline.texts import Pool, load_pool
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.compare import CompareRun
    from storage.metadata import Metadata


@dataclass(frozen=True)
class CompareConfig:
    """Two sets of images in words: which heads tell them apart, and texts along the difference."""

    store: str
    """The store: a local path or an object-store URL."""
    a: str
    """The images of the first set, by columns of the image table."""
    b: str
    """Those of the second."""
    pool: str | None = None
    """The texts: a text file (one a line), a Parquet file, or general, imagenet-classes,
    common-words:N, microworld; by default microworld for pictures of the embedded world, else
    general."""
    layers: str = "all"
    """Layers whose heads are told: all, last:4, 20-23, 1,3."""
    texts_per_part: int = 5
    """Texts to pick for each head, MLP and the embedding."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: CompareConfig) -> CompareRun:
    """Check what can be told at once, then compare."""
    choose_place(config)
    pool = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.compare import run

    return run(config, pool)


def check(config: CompareConfig, planned: Metadata | None = None) -> Pool:
    """Refuse what cannot work before any array is read; returns the texts."""
    refuse_bounds(config, texts_per_part=1)
    if config.a.split() == config.b.split():
        raise FacetError(f"--a and --b are both {config.a!r}: there is no difference to be told")
    tables, meta = look(config.store, planned, texts=True)
    pool = load_pool(config.pool or pool_of(meta.source))
    if len(pool.texts) < 2:
        raise FacetError(
            f"--pool {pool.source} has one text: which set it is nearer to is told against others"
        )
    parse_layers(config.layers, meta.layers)
    refuse_components(config.store, meta, ("heads",))
    refuse_conditions(tables, a=config.a, b=config.b)
    return pool


if __name__ == "__main__":
    run_job(main, tyro.cli(CompareConfig, description=__doc__))
