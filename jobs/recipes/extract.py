"""The recipe of ``facet extract``: images to a store."""

from __future__ import annotations

import time
from dataclasses import replace

from humanize import naturalsize

from jobs.console import TELLER, progress_bar, show_table
from jobs.extract import ExtractConfig, spec_of
from jobs.recipes.extracted import JOB, identity, show_summary
from jobs.scaffold import actors, of_workers, save
from pipeline.cluster import machines
from pipeline.cluster.room import refuse_memory
from pipeline.cluster.work import Workers
from pipeline.extraction import plan
from pipeline.extraction import run as extraction
from pipeline.extraction.store import images_left, open_or_create
from pipeline.images.decoding import decode_of
from pipeline.models import check_supported, load_model
from pipeline.models.arithmetic import TF32
from pipeline.stats.reductions import forget_redone
from pipeline.telling import several
from pipeline.texts.encoding import model_spec
from pipeline.texts.towers import why_without_texts
from storage import urls
from storage.metadata import Metadata
from storage.store import Store


def run(config: ExtractConfig) -> Store:
    """List the images, extract what the ledger lacks, sum up."""
    started = time.monotonic()
    url = urls.absolute(config.store)
    spec = spec_of(config)
    model = load_model(spec.model)
    if "text_cfg" in model.config and (why := why_without_texts(model)):
        TELLER.say(f"{why}. Images are extracted all the same")
    store, report = open_or_create(url, spec, check_supported(spec.model), model, TELLER)
    forget_redone(store)
    left = images_left(store)
    machines.settle(
        extraction.seconds_here(store.meta, model, left, config.device),
        f"{several(left, 'image')} in {several(store.meta.shards, 'shard')}",
        TELLER.say,
        more=not left,
    )
    workers, projection = extraction.choose(
        store.meta, model, config.device, actors(config), config.batch_size
    )
    show_plan(store, workers, projection)
    refuse_memory(
        projection.actor, "lower --shard-size or --batch-size, or keep fewer --components"
    )
    with progress_bar("images", left, "finished shards are kept") as move:
        progress = extraction.run(store, model, workers, max_bad=config.max_bad, report=move)
    facts = {"images": store.meta.images, "tf32": TF32}
    save(url, JOB, config, facts, identity=identity(config, store))
    show_summary(store, report, progress, time.monotonic() - started)
    return store


def as_begun(config: ExtractConfig, existing: Metadata) -> ExtractConfig:
    """The extraction that goes on with a store as it was begun, whatever it is asked to keep."""
    given = config.pretrained if config.pretrained not in (None, "none") else None
    begun = model_spec(urls.absolute(config.store), existing, given)
    return replace(
        config,
        model=config.model or begun.model,
        pretrained=begun.pretrained,
        seed=begun.seed,
        decode=decode_of(existing.preprocessing),
        components=existing.components,  # type: ignore[arg-type]
        layers=",".join(map(str, existing.token_layers)) or config.layers,
        precision=existing.precision,  # type: ignore[arg-type]
        store_dtype=existing.store_dtype,  # type: ignore[arg-type]
        shard_size=existing.shard_size,
    )


def show_plan(store: Store, workers: Workers, projection: plan.Projection) -> None:
    """Bytes and workers, before anything long starts."""
    meta = store.meta
    done = len(store.done_shards())
    show_table(
        f"{meta.architecture} ({meta.weights}) over {meta.source}",
        {
            "images": f"{meta.images:,} in {several(meta.shards, 'shard')} of {meta.shard_size:,}",
            "already done": several(done, "shard"),
            "will write": f"{naturalsize(projection.store)} before compression, "
            f"{naturalsize(projection.per_image)} an image",
            "workers": of_workers(workers),
            "memory": f"{naturalsize(projection.actor)} an actor, and "
            f"{naturalsize(projection.decoded)} of decoded pictures",
            "store": store.url,
        },
    )
