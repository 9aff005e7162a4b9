"""Two models over the same images: which heads are alike, and texts of one for the other.

    facet align --from clip-store/ --to other-store/ --pool general

Linear CKA and canonical correlations of every pair of heads; the linear map that foretells the
embedding of --to from that of --from, with its R² on images that did not make it; and, with --pool,
texts of the model of --from on the heads of --to, brought there by that map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.checks import at_place, look, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster.machines import Where
from pipeline.extraction.plan import parse_layers
from pipeline.stats.choices import refuse_components
from pipeline.texts import Pool, load_pool

if TYPE_CHECKING:
    from jobs.recipes.align import AlignRun


@dataclass(frozen=True)
class AlignConfig:
    """Two models over the same images: which heads are alike, and texts of one for the other."""

    from_: Annotated[str, tyro.conf.arg(name="from")]
    """The store of the one model: a local path or an object-store URL."""
    to: str
    """The store of the other, over the same images, or some of them."""
    pool: str | None = None
    """Texts of the model of --from: a text file (one a line), a Parquet file, or general,
    imagenet-classes, common-words:N, microworld. Without them heads are held against each other
    alone."""
    layers: str = "last:4"
    """Layers of both models whose heads are looked at: all, last:4, 20-23, 1,3."""
    where: str | None = None
    """Which images, by columns of the image table of --to."""
    texts_per_head: int = 5
    """Texts to pick for each head of --to."""
    pretrained: str | None = None
    """The weights file that --from was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in --to, which is then only read: from then on, give
    this place as --to."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: AlignConfig) -> AlignRun:
    """Check what can be told at once, then hold the models against each other."""
    choose_place(config)
    pool = check(config)
    config = at_place(config, "to")
    say_loading()
    from jobs.recipes.align import run

    return run(config, pool)


def check(config: AlignConfig) -> Pool | None:
    """Refuse what cannot work before any array is read; returns the texts."""
    refuse_bounds(config, texts_per_head=1)
    if config.pool is None:
        refuse_unused(config, ["texts_per_head", "pretrained"], "--pool")
    pool = None if config.pool is None else load_pool(config.pool)
    for store in (config.from_, config.to):
        tables, meta = look(store, None, texts=pool is not None and store == config.from_)
        refuse_components(store, meta, ("heads",))
        parse_layers(config.layers, meta.layers)
    refuse_conditions(tables, where=config.where)
    return pool


if __name__ == "__main__":
    run_job(main, tyro.cli(AlignConfig, description=__doc__))
