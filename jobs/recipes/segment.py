"""The recipe of ``facet segment``: maps of many methods, held to masks."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from humanize import naturalsize
from numpy.typing import NDArray

from jobs.console import TELLER, console, show_table
from jobs.scaffold import actors, found_or_made, of_workers, save, show_done
from jobs.segment import SegmentConfig, source_of
from jobs.settings import command
from jobs.steps import embedded, opened
from pipeline.heatmaps import plan
from pipeline.heatmaps.answers import segmented
from pipeline.heatmaps.bench import Bench
from pipeline.heatmaps.choices import token_heads
from pipeline.heatmaps.pictures import masks_digest
from pipeline.heatmaps.shards import forget_done
from pipeline.heatmaps.sheet import SHEET
from pipeline.heatmaps.summary import summary
from pipeline.heatmaps.tables import SEGMENTATION
from pipeline.heatmaps.work import Segmentation, count, look_at
from pipeline.heatmaps.work import run as hold_to_masks
from pipeline.identity import over, settings
from pipeline.images.bad import BadImages
from pipeline.images.masks import MaskSource
from pipeline.models.arithmetic import TF32
from pipeline.neurons.choices import parse_mlp_layers
from pipeline.neurons.found_directions import read_directions
from pipeline.neurons.results import second_order_result
from pipeline.neurons.setup import cpu_model
from pipeline.pages import tables
from pipeline.texts.classes import Classes, class_means, classes_digest
from pipeline.texts.encoding import TextEncoder
from storage import urls
from storage.results import Result, result_url
from storage.store import Store

JOB = "segment"


@dataclass(frozen=True, eq=False)
class SegmentRun:
    """What was found.

    Attributes
    ----------
    result : Result
    methods, classes : DataFrame
        As ``storage/SCHEMA.md`` has them: a row a method and protocol, over all and by class.
    """

    result: Result
    methods: pd.DataFrame
    classes: pd.DataFrame


def run(config: SegmentConfig, classes: Classes) -> SegmentRun:
    """Make the maps, hold them to the masks, sum up."""
    started = time.monotonic()
    store = opened(config.store)
    source = source_of(config, store.meta)
    effects = effects_of(config, store)
    identity = {
        "settings": settings(config),
        "over": over(store),
        "classes": classes_digest(classes),
        "masks": masks_digest(source),
        "second_order": None if effects is None else effects.name,
    }
    make = partial(find, config, identity, store, classes, source, effects)
    result = found_or_made(store.url, JOB, identity, make)
    found = segmented(result)
    console.print(tables.segmentation(found))
    known = result.provenance
    facts = {
        "pictures": f"{known['images']:,} held to masks",
        **BadImages(Counter(known["left_out"]), known["left_out_named"]).rows(),
        "maps of": f"the {'labelled' if config.class_ == 'label' else 'predicted'} class",
    }
    show_done(facts, time.monotonic() - started, result, command("report", store=config.store))
    return SegmentRun(result, found.methods, found.classes)


def effects_of(config: SegmentConfig, store: Store) -> Result | None:
    """The second-order effects that neurons are chosen by; None where nobody asks for neurons."""
    if "neurons" not in config.methods:
        return None
    return second_order_result(store, parse_mlp_layers(config.mlp_layers, store.meta))


def find(
    config: SegmentConfig,
    identity: dict[str, Any],
    store: Store,
    classes: Classes,
    source: MaskSource,
    effects: Result | None,
) -> Result:
    """Make the maps of every picture, hold them to its mask, and keep what they come to."""
    urls.check_writable(store.url)
    meta, counts = store.meta, count(store, config.where)
    encoder = TextEncoder(store, config.pretrained)
    encoded = embedded(encoder, f"classes {config.classes}", classes.flat)
    bench = bench_of(config, store, classes, class_means(encoded.embeddings, classes), effects)
    model = cpu_model(store, config.pretrained)
    images = sum(counts.values())
    plan.settle(meta, model, bench, images, len(counts), config.device, TELLER.say)
    workers, memory = plan.choose(
        meta, model, bench, config.device, actors(config), config.batch_size
    )
    show_table(
        f"heat maps of {meta.architecture} ({meta.weights})",
        {
            "images": f"{images:,}",
            "classes": f"{len(classes.names):,}",
            "rows": ", ".join(bench.rows),
            "protocols": ", ".join(bench.protocols),
            "workers": of_workers(workers),
            "will write": f"{naturalsize(plan.written_bytes(bench, images))} before compression",
            "memory": f"{naturalsize(memory)} an actor",
            "store": store.url,
        },
    )
    work = Segmentation(
        store.url,
        store.data,
        meta,
        result_url(store.url, JOB, identity),
        model,
        bench,
        source,
        config.where,
        config.label_column,
        classes if config.class_ == "label" else None,
        counts,
        workers,
        memory,
    )
    parts, left_out = hold_to_masks(work, TELLER)
    sheet = look_at(work, parts)
    found = summary(parts, bench.rows, bench.protocols)
    facts = {
        "images": int(found["methods"]["images"].max()),
        "left_out": left_out.counts,
        "left_out_named": left_out.named,
        "rows": bench.rows,
        "tf32": TF32,
    }
    result = save(
        store.url, JOB, config, facts,
        identity=identity, tables=found, schemas=SEGMENTATION,
        arrays=None if sheet is None else {SHEET: sheet.arrays()},
    )  # fmt: skip
    forget_done(work.place)
    return result


def bench_of(
    config: SegmentConfig,
    store: Store,
    classes: Classes,
    texts_ce: NDArray[Any],
    effects: Result | None,
) -> Bench:
    """The methods, with what the store knows for them."""
    meta = store.meta
    directions = {}
    if effects is not None:
        layers = parse_mlp_layers(config.mlp_layers, meta)
        directions = read_directions(effects, layers).by_layer
    return Bench(
        config.methods,
        config.protocol,
        classes.names,
        texts_ce,
        token_heads(config.layers, config.heads, meta) if "tokens" in config.methods else {},
        config.convention,
        directions,
        config.steps,
    )
