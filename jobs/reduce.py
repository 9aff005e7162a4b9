"""Means, covariances and principal components of a store, or of a subset of its images.

    facet reduce --store out/ --where "split == 'val'"

The same command again only adds shards that were extracted since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.checks import at_place, look, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place
from pipeline.cluster.machines import Where
from pipeline.stats.choices import refuse_components
from storage.layout import Component

Reducible = Literal[Component, "embedding"]

if TYPE_CHECKING:
    from storage.metadata import Metadata
    from storage.reductions import Reductions


@dataclass(frozen=True)
class ReduceConfig:
    """Means, covariances and principal components of a store, or of a subset of its images."""

    store: str
    """The store: a local path or an object-store URL."""
    where: str | None = None
    """Which images, by columns of the image table: "split == 'val' and count in (1, 2)"."""
    components: tuple[Reducible, ...] = ()
    """What to reduce; by default all that the store has."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: ReduceConfig) -> Reductions:
    """Check what can be told of the store at once, then reduce."""
    choose_place(config)
    check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.reduce import run

    return run(config)


def check(config: ReduceConfig, planned: Metadata | None = None) -> None:
    """Refuse what cannot work before any array is read."""
    tables, meta = look(config.store, planned)
    refuse_components(config.store, meta, config.components)
    refuse_conditions(tables, where=config.where)


if __name__ == "__main__":
    run_job(main, tyro.cli(ReduceConfig, description=__doc__))
