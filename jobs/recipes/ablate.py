"""The recipe of ``facet ablate``: accuracy when parts are replaced by their means."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from jobs.ablate import OF_MODEL, AblateConfig
from jobs.console import TELLER, console, show_table
from jobs.scaffold import actors, found_or_made, save, show_done
from jobs.settings import command, refuse_unused
from jobs.steps import embedded, opened, reduced
from pipeline.heads.ablation import random_directions
from pipeline.heads.answers import ablated
from pipeline.heads.choices import parse_heads
from pipeline.heads.describe import heads_of, span_directions
from pipeline.heads.edits import edits_digest, read_edit
from pipeline.heads.tables import ABLATIONS
from pipeline.identity import over, settings
from pipeline.neurons.ablation import NeuronStudy
from pipeline.neurons.choices import OF_NEURONS, parse_mlp_layers
from pipeline.neurons.results import second_order_result
from pipeline.neurons.setup import EffectsSpec, cpu_model, plan_effects, settle_passes
from pipeline.neurons.studies import Question, studied
from pipeline.neurons.tables import EFFECTS
from pipeline.pages import tables
from pipeline.pages.figures import ablation_figures
from pipeline.pages.heads import TITLES
from pipeline.pages.html import as_file
from pipeline.texts import load_pool
from pipeline.texts.classes import Classes, PoolError, class_means, classes_digest, texts_digest
from pipeline.texts.encoding import TextEncoder
from storage.results import Result
from storage.store import Store

JOB = "ablate"


@dataclass(frozen=True, eq=False)
class AblateRun:
    """What was found.

    Attributes
    ----------
    result : Result
    accuracy : DataFrame
    effects : DataFrame or None
        Of --study effects.
    """

    result: Result
    accuracy: pd.DataFrame
    effects: pd.DataFrame | None


def run(config: AblateConfig, classes: Classes) -> AblateRun:
    """Make what is missing, classify with every ablation, compare."""
    started = time.monotonic()
    store = opened(config.store)
    ask = question(config, store, classes)
    ask.check(store)
    if not ask.runs_model(store):
        refuse_unused(config, OF_MODEL, "passes of the model, where coefficients are not kept")
    identity = identity_of(config, store, ask)
    make = partial(find, config, identity, store, ask)
    result = found_or_made(store.url, JOB, identity, make)
    found = ablated(result)
    show(result, found.accuracy, found.effects)
    known = result.provenance
    facts = {
        "classified": f"{known['classified']:,} images, {known['ablations']:,} ablations",
        "means over": f"{known['reference_images']:,} images",
    }
    show_done(facts, time.monotonic() - started, result, command("report", store=config.store))
    return AblateRun(result, found.accuracy, found.effects)


def question(config: AblateConfig, store: Store, classes: Classes) -> Question:
    """What is asked for, in terms of the store."""
    meta = store.meta
    mlp_layers: tuple[int, ...] = ()
    if OF_NEURONS & set(config.study):
        mlp_layers = parse_mlp_layers(config.mlp_layers, meta)
    return Question(
        config.study,
        classes,
        config.label_column,
        config.where,
        config.reference,
        parse_heads(config.heads, meta.layers, meta.heads),
        config.texts_per_head,
        mlp_layers,
        tuple(read_edit(url, store) for url in config.edit),
    )


def identity_of(config: AblateConfig, store: Store, ask: Question) -> dict[str, Any]:
    """All that decides what is found."""
    effects = None
    if "neurons" in config.study:
        effects = second_order_result(store, ask.mlp_layers).name
    return {
        "settings": settings(config),
        "over": over(store),
        "classes": classes_digest(ask.classes),
        "pools": [texts_digest(texts) for _, texts in pools_of(config)],
        "second_order": effects,
        "edits": edits_digest(ask.edits),
    }


def pools_of(config: AblateConfig) -> list[tuple[str, tuple[str, ...]]]:
    """Sources and texts of the pools that the study of TextSpan describes heads by."""
    if "textspan" not in config.study:
        return []
    pools = [load_pool(config.pool or "")]
    if "common-words" in config.baselines:
        try:
            pools.append(load_pool(f"common-words:{len(pools[0].texts)}"))
        except PoolError as error:  # nobody need have asked for them
            raise PoolError(f"{error}; or do without these words: --baselines random") from error
    return [(pool.source, pool.texts) for pool in pools]


def find(config: AblateConfig, identity: dict[str, Any], store: Store, ask: Question) -> Result:
    """Classify with every ablation, compare, and keep what is found."""
    encoder = TextEncoder(store, config.pretrained)
    encoded = embedded(encoder, f"classes {config.classes}", ask.classes.flat)
    components = tuple(c for c in ask.components if c != "heads" or store.meta.heads)
    reductions = reduced(store, config.reference, components)
    spans = {}
    if "textspan" in config.study:
        spans = span_directions(
            store, reductions, heads_of(config.layers, store), described_by(config, store, encoder),
            max(config.texts_per_head), TELLER,
        )  # fmt: skip
    found = studied(
        ask,
        store,
        class_means(encoded.embeddings, ask.classes),
        reductions,
        spans,
        of_neurons(config, store, ask) if OF_NEURONS & set(config.study) else None,
        TELLER,
    )
    facts = {
        "reference_images": reductions.count("embedding"),
        "token_layers": list(store.meta.token_layers),
        "classified": found.images,
        "classes": len(ask.classes.names),
        "ablations": found.ablations,
        "warnings": found.warnings,
    }
    kept = {"accuracy": found.accuracy}
    if found.explained is not None:
        kept["effects"] = found.explained
    figures = ablation_figures(found.accuracy)
    pictures = {f"{study}.html": as_file(TITLES[study], f) for study, f in figures.items()}
    return save(
        store.url, JOB, config, facts,
        identity=identity, tables=kept, schemas=ABLATIONS | EFFECTS, files=pictures,
    )  # fmt: skip


def described_by(config: AblateConfig, store: Store, encoder: TextEncoder) -> dict[str, np.ndarray]:
    """Embeddings of the pool and of its baselines, by series."""
    console.print(load_pool(config.pool or "").report)
    (source, texts), *words = pools_of(config)
    rows = {f"TextSpan, {source}": embedded(encoder, source, texts).embeddings}
    for name, common in words:
        rows["common words"] = embedded(encoder, name, common).embeddings
    if "random" in config.baselines:
        rows["random directions"] = random_directions(len(texts), store.meta.embed)
    return rows


def of_neurons(config: AblateConfig, store: Store, ask: Question) -> NeuronStudy:
    """The model, and what runs it."""
    model = cpu_model(store, config.pretrained)
    settle_passes(store, model, ask.mlp_layers, config.device, TELLER.say)
    run, _ = plan_effects(
        store,
        model,
        EffectsSpec(ask.mlp_layers),
        device=config.device,
        actors=actors(config),
        batch_size=config.batch_size,
        teller=TELLER,
    )
    return NeuronStudy(store, model, run.workers, run.memory, TELLER.bar, TELLER.say)


def show(result: Result, accuracy: pd.DataFrame, effects: pd.DataFrame | None) -> None:
    """Accuracies, and what one direction explains."""
    console.print(tables.accuracies(accuracy))
    for warning in result.provenance["warnings"]:
        console.print(f"WARNING: {warning}", style="bold red")
    if effects is not None:
        facts = {
            f"MLP layer {row.layer}, {row.effect}": f"{row.explained:.0%} (mean of {row.neurons} "
            f"neurons over {row.images} images)"
            for row in effects.itertuples()
        }
        show_table("variance along the first principal component", facts)
