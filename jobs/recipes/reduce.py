"""The recipe of ``facet reduce``: means, covariances and principal components of a store."""

from __future__ import annotations

import time

from jobs.console import say_found, show_next, show_table
from jobs.reduce import ReduceConfig
from jobs.settings import ELIDED, describing
from jobs.steps import opened, reduced
from pipeline.models.checkpoint import WEIGHT_SUFFIXES
from pipeline.stats.choices import available_components
from pipeline.stats.reductions import check, missing_shards
from storage.reductions import TABLE, Reductions, subset_url
from storage.store import Store
from storage.weights import remembered


def run(config: ReduceConfig) -> Reductions:
    """Reduce, say what was counted."""
    started = time.monotonic()
    store = opened(config.store)
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
    return describing(
        config.store, store.meta, where=config.where, pretrained=ELIDED if file else None
    )
