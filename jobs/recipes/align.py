"""The recipe of ``facet align``: two models over the same images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from humanize import naturalsize

from jobs.align import AlignConfig
from jobs.console import TELLER, console, progress_bar
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command, pool_of
from jobs.steps import embedded, opened
from pipeline.between.align import Aligned, align, doubts, mapped_texts
from pipeline.between.answers import Alignment, aligned
from pipeline.between.common import Common, common_images
from pipeline.between.crossed import blocks, state_bytes
from pipeline.between.tables import ALIGNED
from pipeline.cluster import machines, pace
from pipeline.cluster.room import refuse_memory
from pipeline.cluster.tasks import FAN_IN
from pipeline.extraction.plan import parse_layers
from pipeline.identity import over, settings
from pipeline.pages import between as pages
from pipeline.telling import several
from pipeline.texts import Pool
from pipeline.texts.classes import texts_digest
from storage.results import Result
from storage.store import Store

JOB = "align"


@dataclass(frozen=True, eq=False)
class AlignRun:
    """What was found.

    Attributes
    ----------
    result : Result
    found : Alignment
    """

    result: Result
    found: Alignment


def run(config: AlignConfig, pool: Pool | None) -> AlignRun:
    """Hold the models against each other, describe one by the other's texts, sum up."""
    started = time.monotonic()
    source, target = opened(config.from_), opened(config.to)
    identity = {
        "settings": settings(config),
        "over": over(target),
        "from": over(source),
        "pool": None if pool is None else texts_digest(pool.texts),
    }
    result = found_or_made(
        target.url, JOB, identity, lambda: find(config, identity, source, target, pool)
    )
    found = aligned(result, config.texts_per_head)
    console.print(pages.matches_table(found))
    for warning in found.warnings:
        console.print(f"WARNING: {warning}", style="bold red")
    show_done(pages.told(found), time.monotonic() - started, result, following(config, target))
    return AlignRun(result, found)


def following(config: AlignConfig, target: Store) -> str:
    """Texts on the other model's heads, where there are none yet; else their page."""
    if config.pool is None:
        return command(
            "align", from_=config.from_, to=config.to, layers=config.layers, where=config.where,
            pool=pool_of(target.meta.source),
        )  # fmt: skip
    return command("report", store=config.to)


def find(
    config: AlignConfig,
    identity: dict[str, Any],
    source: Store,
    target: Store,
    pool: Pool | None,
) -> Result:
    """Hold the models against each other, and keep what is found."""
    with TELLER.wait("matching images by their keys"):
        common = common_images(source, target)
    found = held(config, source, target, common)
    texts, encoded = pd.DataFrame(columns=ALIGNED["texts"].names), None
    if pool is not None:
        from pipeline.texts.encoding import TextEncoder  # brings torch

        console.print(pool.report)
        encoded = embedded(TextEncoder(source, config.pretrained), pool.source, pool.texts)
        texts = mapped_texts(
            target, found, encoded.embeddings, pool.texts, config.texts_per_head, TELLER
        )
    facts = {
        "from": model_name(source),
        "to": model_name(target),
        "images": found.images,
        "image_lists": [source.meta.image_list_digest, target.meta.image_list_digest],
        "same_list": common.same_list,
        "only_from": common.only_from,
        "only_to": common.only_to,
        "absent": found.absent,
        "lost": found.lost,
        "embedding_cka": found.embedding_cka,
        "r2": found.map.r2,
        "strength": found.map.strength,
        "fitted": found.map.images,
        "held_out": found.map.held_out,
        "warnings": doubts(found.images, source.meta.head_dim + target.meta.head_dim, found.map.r2),
        "texts": None if encoded is None else encoded.result.url,
    }
    arrays = {"map": map_arrays(found)}
    return save(
        target.url, JOB, config, facts,
        identity=identity, tables={"pairs": found.pairs, "texts": texts}, schemas=ALIGNED,
        arrays=arrays,
    )  # fmt: skip


def held(config: AlignConfig, source: Store, target: Store, common: Common) -> Aligned:
    """The scans over both stores, with bytes before and a bar."""
    there, here = (parse_layers(config.layers, store.meta.layers) for store in (source, target))
    scans = blocks(source.meta, target.meta, there, here)
    shards = len(target.done_shards())
    state = max(state_bytes(source.meta, target.meta, block) for block in scans)
    refuse_memory((FAN_IN + 2) * state, "choose fewer `layers`", what="merging states")
    seconds = len(scans) * sum(
        pace.of_shards(store.meta, len(store.done_shards())) for store in (source, target)
    )
    machines.settle(seconds, several(len(scans) * shards, "shard") + " to cross", TELLER.say)
    heads = f"{len(there) * source.meta.heads:,} × {len(here) * target.meta.heads:,} heads"
    console.print(
        f"{heads} in {several(len(scans), 'scan')} of both stores; one state takes "
        f"{naturalsize(state)}, and up to {FAN_IN + 2} are held"
    )
    with progress_bar("shards", len(scans) * shards) as move:
        return align(source, target, common, there, here, config.where, move)


def model_name(store: Store) -> str:
    """A model as people know it."""
    meta = store.meta
    named = meta.weights == meta.architecture  # the embedded world's
    return meta.architecture if named else f"{meta.architecture} ({meta.weights})"


def map_arrays(found: Aligned) -> xr.Dataset:
    """The map as it is kept."""
    made = found.map
    return xr.Dataset(
        {
            "map": (("from_embed", "to_embed"), made.map_ef),
            "from_mean": (("from_embed",), np.asarray(made.mean_e)),
            "to_mean": (("to_embed",), np.asarray(made.mean_f)),
        }
    )
