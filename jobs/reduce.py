"""Means, covariances and principal components of a store, or of a subset of its images.

    facet reduce --store out/ --where "split == 'val'"

The same command again only adds shards that were extracted since.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import tyro

from jobs.console import run_job, say_found, show_next, show_table
from jobs.settings import ELIDED, choose_place, command
from jobs.steps import reduced
from pipeline.cluster.machines import Where
from pipeline.models.spec import WEIGHT_SUFFIXES
from pipeline.stats.reductions import available_components, check, missing_shards
from storage import open_store
from storage.reductions import TABLE, Reductions, subset_url
from storage.store import Store
from storage.weights import remembered


@dataclass(frozen=True)
class ReduceConfig:
    """Means, covariances and principal components of a store, or of a subset of its images."""

    store: str
    """The store: a local path or an object-store URL."""
    where: str | None = None
    """Which images, by columns of the image table: "split == 'val' and count in (1, 2)"."""
    components: tuple[Literal["heads", "mlps", "tokens", "embedding"], ...] = ()
    """What to reduce; by default all that the store has."""
    workers: Where = "ray"
    """Where work is done: on a Ray cluster that is joined or started, or here, in this process."""


def main(config: ReduceConfig) -> Reductions:
    """Reduce, say what was counted."""
    started = time.monotonic()
    choose_place(config)
    store = open_store(config.store)
    components = config.components or available_components(store.meta)
    check(store, config.where, components)
    if not missing_shards(store, config.where, components):
        say_found(subset_url(store.url, config.where))
    found = reduced(store, config.where, components)
    unfinished = store.meta.shards - len(store.done_shards())
    counts = {r.name: found.count(r.name) for r in TABLE if f"{r.name}_count" in found.data}
    show_table(
        "done",
        {
            "subset": config.where or "all images that are ok",
            **{f"  {name}": f"{n:,}" for name, n in counts.items()},
            "shards": f"{store.meta.shards - unfinished:,} finished"
            + (f", {unfinished:,} not extracted yet and not counted" if unfinished else ""),
            "this run": f"{time.monotonic() - started:.0f} s",
            "kept in": subset_url(store.url, config.where),
        },
    )
    show_next(next_command(config, store))
    return found


def next_command(config: ReduceConfig, store: Store) -> str:
    """What the moments of the subset are for."""
    file = store.meta.weights.endswith(WEIGHT_SUFFIXES) and remembered(store.url) is None
    return command(
        "textspan",
        store=config.store,
        pool="general",
        layers=None if store.meta.layers >= 4 else "all",
        where=config.where,
        pretrained=ELIDED if file else None,
    )


if __name__ == "__main__":
    run_job(main, tyro.cli(ReduceConfig, description=__doc__))
