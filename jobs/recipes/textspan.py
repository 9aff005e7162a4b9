"""The recipe of ``facet textspan``: heads described by texts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jobs.console import TELLER, console, show_table
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
from jobs.steps import embedded, opened, reduced
from jobs.textspan import TextSpanConfig
from pipeline.heads.answers import described_heads
from pipeline.heads.describe import (
    describe_heads,
    description_table,
    heads_of,
    refuse_one_image,
)
from pipeline.heads.names import head_name
from pipeline.heads.roles import KnownRoles, known_roles
from pipeline.heads.tables import DESCRIPTIONS
from pipeline.heads.top_images import description_images
from pipeline.identity import over, settings
from pipeline.pages import tables
from pipeline.texts import Pool
from pipeline.texts.classes import texts_digest
from storage.reductions import Reductions
from storage.results import Result
from storage.store import Store

JOB = "textspan"


@dataclass(frozen=True, eq=False)
class TextSpanRun:
    """What was found.

    Attributes
    ----------
    result : Result
    descriptions : DataFrame
    known : KnownRoles or None
        What the heads are really about, where the images' attributes are known.
    """

    result: Result
    descriptions: pd.DataFrame
    known: KnownRoles | None


def run(config: TextSpanConfig, pool: Pool) -> TextSpanRun:
    """Make what is missing, describe the heads, compare with the truth where it is known."""
    started = time.monotonic()
    console.print(pool.report)
    store = opened(config.store)
    reductions = reduced(store, config.where, ("heads",))
    refuse_one_image(reductions)
    identity = {
        "settings": settings(config),
        "over": over(store, reductions.facts.counted("heads")),
        "pool": texts_digest(pool.texts),
    }
    result = found_or_made(
        store.url, JOB, identity, lambda: describe(config, identity, store, reductions, pool)
    )
    run = read(result)
    show(run)
    facts = result.provenance
    stopped = Counter(facts["stopped"]).most_common(5)
    show_done(
        {
            "images": f"{facts['images']:,}",
            "heads": f"{facts['heads']:,}",
            **{f"  {n} of them": why for why, n in stopped},
        },
        time.monotonic() - started,
        result,
        next_command(config, run.known.attributes if run.known else ()),
    )
    return run


def next_command(config: TextSpanConfig, attributes: Sequence[str]) -> str:
    """Whether the texts matter, over the images that they were found with; else their page."""
    if not attributes:  # nothing is known of the classes
        return command("report", store=config.store)
    return command(
        "ablate",
        store=config.store,
        classes="microworld:shape",
        study="textspan",
        pool=config.pool,
        layers=config.layers,
        reference=config.where,
        pretrained=config.pretrained,
    )


def describe(
    config: TextSpanConfig,
    identity: dict[str, Any],
    store: Store,
    reductions: Reductions,
    pool: Pool,
) -> Result:
    """Describe the heads, and keep tables and a page a layer."""
    # These bring torch, which a run that was finished before does without.
    from pipeline.pages.figures import roles_figure, textspan_figure
    from pipeline.pages.heads import ROLES, layer_title
    from pipeline.pages.html import as_file
    from pipeline.texts.encoding import TextEncoder

    encoded = embedded(TextEncoder(store, config.pretrained), pool.source, pool.texts)
    heads = heads_of(config.layers, store)
    found = describe_heads(
        store, reductions, heads, encoded.embeddings, config.texts_per_head, config.objective,
        TELLER,
    )  # fmt: skip
    descriptions = description_table(found, heads, pool.texts)
    layers = sorted({int(layer) for layer in descriptions["layer"]})
    tables, arrays = {"descriptions": descriptions}, {}
    if config.top_images:
        tables["images"] = description_images(
            store, descriptions, dict(zip(pool.texts, encoded.embeddings, strict=True)),
            config.top_images, sorted(reductions.facts.counted("heads")), config.where, TELLER,
        )  # fmt: skip
    files = {
        f"layer-{i:02d}.html": as_file(layer_title(i), textspan_figure(descriptions, i))
        for i in layers
    }
    known = known_roles(store, reductions, descriptions, TELLER)
    if known is not None:
        tables["roles"] = known.table
        arrays["shares"] = known.arrays()
        described = known.table[["layer", "head"]].itertuples(index=False, name=None)
        figure = roles_figure(known.shares, known.attributes, list(described))
        files["roles.html"] = as_file(ROLES, figure)
    facts = {
        "images": reductions.count(),
        "heads": len(heads),
        "stopped": Counter(reason for reason in found.stopped if reason),
        "texts": encoded.result.url,
        "truth": known is not None,
    }
    return save(
        store.url, JOB, config, facts,
        identity=identity, tables=tables, schemas=DESCRIPTIONS, arrays=arrays, files=files,
    )  # fmt: skip


def read(result: Result) -> TextSpanRun:
    """What a finished run found."""
    descriptions = result.table("descriptions").to_pandas()
    return TextSpanRun(result, descriptions, KnownRoles.of(result))


def show(run: TextSpanRun) -> None:
    """The first texts of every head; what the heads are really about, where it is known."""
    console.print(tables.heads(described_heads(run.result, 5), 5))
    if run.known is not None:
        facts = {
            head_name(r["layer"], r["head"]): f"{r['attribute']} explains {r['share']:.0%}; "
            f"{r['texts_about']} of the first 5 texts are about it"
            for r in run.known.table.sort_values("share", ascending=False).to_dict("records")
        }
        show_table("heads against the truth", facts)
