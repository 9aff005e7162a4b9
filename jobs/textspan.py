"""Describe attention heads by texts whose directions explain most of what they write.

    facet textspan --store out/ --pool general --layers last:4

Moments and text embeddings that are missing are made first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tyro
import xarray as xr

from jobs import encode_texts, reduce
from jobs.console import console, progress_bar, run_job, say_found, show_next, show_table
from jobs.show import head_table
from pipeline.cluster import machines
from pipeline.extraction import plan
from pipeline.heads import roles
from pipeline.heads.describe import Head, describe_heads, description_table
from pipeline.heads.textspan import Objective, TextSpanResult
from pipeline.identity import found_before, over, settings
from pipeline.pages.figures import png, roles_figure, textspan_figure
from pipeline.provenance import revision, versions
from pipeline.texts import load_pool
from pipeline.texts.classes import texts_digest
from pipeline.texts.encoding import TextEncoder
from storage import open_store, urls
from storage.errors import ELIDED, FacetError, command
from storage.reductions import Reductions
from storage.results import Result, save_result
from storage.store import Store

JOB = "textspan"


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
    where: str | None = None
    """Which images describe the heads, by columns of the image table."""
    pretrained: str | None = None
    """The weights file, where the store was made from one."""


@dataclass(frozen=True, eq=False)
class TextSpanRun:
    """What was found.

    Attributes
    ----------
    result : Result
    descriptions : DataFrame
    roles : DataFrame or None
        Known truth: see ``pipeline.heads.roles.role_table``.
    shares : (L, H, attributes) float or None
    attributes : tuple of str
    """

    result: Result
    descriptions: pd.DataFrame
    roles: pd.DataFrame | None
    shares: np.ndarray | None
    attributes: tuple[str, ...]


def main(config: TextSpanConfig) -> TextSpanRun:
    """Make what is missing, describe the heads, compare with the truth where it is known."""
    started = time.monotonic()
    if config.texts_per_head < 1:
        raise FacetError(f"--texts-per-head {config.texts_per_head}: must be at least 1")
    pool = load_pool(config.pool)
    console.print(pool.report)
    store = open_store(config.store)
    heads = heads_of(config.layers, store)
    reductions = reduce.update(store, config.where, ("heads",))
    refuse_one_image(reductions)
    identity = {
        "settings": settings(config),
        "over": over(store, reductions.facts.counted("heads")),
        "pool": texts_digest(pool.texts),
    }
    result = found_before(store.url, JOB, identity)
    if result is None:
        urls.check_writable(store.url)
        encoder = TextEncoder(store, config.pretrained)
        encoded = encode_texts.encode(encoder, pool.source, pool.texts)
        found = describe(
            store, reductions, heads, encoded.embeddings, config.texts_per_head, config.objective
        )
        descriptions = description_table(found, heads, pool.texts)
        truth = known_truth(store, reductions, descriptions)
        facts = {
            "images": reductions.count(),
            "heads": len(heads),
            "stopped": Counter(reason for reason in found.stopped if reason),
            "texts": encoded.result.url,
            "truth": truth[0] is not None,
        }
        result = save(config, identity, store, facts, descriptions, truth)
    else:
        say_found(result.url)
    run = read(result)
    show(run, time.monotonic() - started)
    show_next(next_command(config, run.attributes))
    return run


def next_command(config: TextSpanConfig, attributes: Sequence[str]) -> str:
    """Whether the texts matter, over the images that they were found with."""
    return command(
        "ablate",
        store=config.store,
        classes="microworld:shape" if attributes else ELIDED,
        study="textspan",
        pool=config.pool,
        layers=config.layers,
        reference=config.where,
        pretrained=config.pretrained,
    )


def heads_of(layers: str, store: Store) -> list[Head]:
    """All heads of the layers named on the command line."""
    chosen = plan.parse_layers(layers, store.meta.layers)
    return [(layer, head) for layer in chosen for head in range(store.meta.heads)]


def refuse_one_image(reductions: Reductions) -> None:
    """One image has no variance to describe."""
    if reductions.count() < 2:
        raise FacetError(
            f"only {reductions.count()} image was counted: heads are described by how their "
            "contributions vary, which takes 2 images at least. Choose another --where."
        )


def describe(
    store: Store,
    reductions: Reductions,
    heads: list[Head],
    texts: np.ndarray,
    rounds: int,
    objective: Objective = "projection",
) -> TextSpanResult:
    """TextSpan of the heads, with a bar."""
    machines.connect()
    with progress_bar("heads", len(heads)) as move:
        return describe_heads(store, reductions, heads, texts, rounds, objective, move)


Truth = tuple[pd.DataFrame | None, np.ndarray | None, tuple[str, ...]]


def known_truth(store: Store, reductions: Reductions, descriptions: pd.DataFrame) -> Truth:
    """Which attribute every head follows, in stores whose images have known attributes."""
    attributes = roles.known_attributes(store)
    if not attributes or descriptions.empty:
        return None, None, ()
    with progress_bar("known truth: shards", len(reductions.facts.counted("heads"))) as move:
        shares = roles.attribute_shares(store, reductions, attributes, report=move)
    variances = roles.head_variances(reductions)
    table = roles.role_table(shares, variances, attributes, descriptions)
    return table.to_pandas(), shares, attributes


def save(
    config: TextSpanConfig,
    identity: dict[str, Any],
    store: Store,
    facts: dict[str, Any],
    descriptions: pd.DataFrame,
    truth: Truth,
) -> Result:
    """Tables, a picture a layer, and how they came about."""
    roles_table, shares, attributes = truth
    layers = sorted({int(layer) for layer in descriptions["layer"]})
    files = {f"layer-{i:02d}.png": png(textspan_figure(descriptions, i)) for i in layers}
    tables = {"descriptions": pa.Table.from_pandas(descriptions, preserve_index=False)}
    arrays = {}
    if roles_table is not None and shares is not None:
        tables["roles"] = pa.Table.from_pandas(roles_table, preserve_index=False)
        dims, names = ("layer", "head", "attribute"), {"attributes": list(attributes)}
        arrays["shares"] = xr.Dataset({"share": (dims, shares)}, attrs=names)
        described = roles_table[["layer", "head"]].itertuples(index=False, name=None)
        files["roles.png"] = png(roles_figure(shares, attributes, list(described)))
    return save_result(
        store.url,
        JOB,
        asdict(config),
        {**facts, "versions": versions(), "revision": revision()},
        identity=identity,
        tables=tables,
        arrays=arrays,
        files=files,
    )


def read(result: Result) -> TextSpanRun:
    """What a finished run found."""
    descriptions = result.table("descriptions").to_pandas()
    if not result.provenance["truth"]:
        return TextSpanRun(result, descriptions, None, None, ())
    shares = result.arrays("shares")["share"]
    attributes = tuple(result.arrays("shares").attrs["attributes"])
    return TextSpanRun(
        result, descriptions, result.table("roles").to_pandas(), shares.values, attributes
    )


def show(run: TextSpanRun, seconds: float) -> None:
    """The published table, heads that stopped early, the known truth."""
    console.print(head_table(run.descriptions, 5))
    if run.roles is not None:
        facts = {
            f"{r.layer}.{r.head}": f"{r.attribute} explains {r.share:.0%}; "
            f"{r.texts_about} of the first 5 texts are about it"
            for r in run.roles.sort_values("share", ascending=False).itertuples()
        }
        show_table("heads against the truth", facts)
    known = run.result.provenance
    show_table(
        "done",
        {
            "images": f"{known['images']:,}",
            "heads": f"{known['heads']:,}",
            **{f"  {n} of them": why for why, n in Counter(known["stopped"]).most_common(5)},
            "this run": f"{seconds:.0f} s",
            "kept in": run.result.url,
        },
    )


if __name__ == "__main__":
    run_job(main, tyro.cli(TextSpanConfig, description=__doc__))
