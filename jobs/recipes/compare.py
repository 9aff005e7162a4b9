"""The recipe of ``facet compare``: two sets of images in words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from jobs.compare import CompareConfig
from jobs.console import TELLER, console
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
from jobs.steps import embedded, opened, reduced
from pipeline.extraction.plan import parse_layers
from pipeline.heads.answers import Compared, compared_sets
from pipeline.heads.tables import TWO_SETS
from pipeline.heads.two_sets import compare, compared, in_both, refuse_same
from pipeline.identity import over, settings
from pipeline.pages import tables
from pipeline.texts import Pool
from pipeline.texts.classes import texts_digest
from storage.reductions import Reductions
from storage.results import Result
from storage.store import Store

JOB = "compare"


@dataclass(frozen=True, eq=False)
class CompareRun:
    """What was found.

    Attributes
    ----------
    result : Result
    found : Compared
    """

    result: Result
    found: Compared


def run(config: CompareConfig, pool: Pool) -> CompareRun:
    """Make what is missing, compare, sum up."""
    started = time.monotonic()
    console.print(pool.report)
    store = opened(config.store)
    a, b = (reduced(store, where, compared(store)) for where in (config.a, config.b))
    identity = {
        "settings": settings(config),
        "over": over(store, a.facts.counted("heads")),
        "pool": texts_digest(pool.texts),
    }
    result = found_or_made(
        store.url, JOB, identity, lambda: find(config, identity, store, (a, b), pool)
    )
    found = compared_sets(result, config.texts_per_part)
    console.print(tables.two_sets(found))
    for warning in found.warnings:
        console.print(f"WARNING: {warning}", style="bold red")
    facts = {
        "images": f"{found.images_a:,} in a, {found.images_b:,} in b",
        "shares of the difference": ", ".join(f"{n} {v:.1%}" for n, v in found.shares.items()),
    }
    show_done(facts, time.monotonic() - started, result, command("report", store=config.store))
    return CompareRun(result, found)


def find(
    config: CompareConfig,
    identity: dict[str, Any],
    store: Store,
    sets: tuple[Reductions, Reductions],
    pool: Pool,
) -> Result:
    """Compare, and keep what is found."""
    from pipeline.texts.encoding import TextEncoder  # brings torch

    counts = sets[0].count("embedding"), sets[1].count("embedding")
    both = in_both(store, config.a, config.b)
    refuse_same(counts, both)
    encoded = embedded(TextEncoder(store, config.pretrained), pool.source, pool.texts)
    layers = parse_layers(config.layers, store.meta.layers)
    found = compare(
        store, sets, layers, encoded.embeddings, pool.texts, config.texts_per_part, TELLER
    )
    facts = {
        "images": sum(counts) - both,
        "images_a": counts[0],
        "images_b": counts[1],
        "images_both": both,
        "shares": found.shares,
        "texts": encoded.result.url,
    }
    kept = {"parts": found.parts, "texts": found.texts}
    return save(store.url, JOB, config, facts, identity=identity, tables=kept, schemas=TWO_SETS)
