"""The recipe of ``facet omp``: sparse text codes of neurons.

It asks three things: how well codes fit, whether they classify, and whether they are true.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from humanize import naturalsize
from numpy.typing import NDArray

from jobs.console import TELLER, console, show_table
from jobs.omp import OmpConfig
from jobs.scaffold import found_or_made, save, show_done
from jobs.settings import command
from jobs.steps import embedded, opened
from pipeline.cluster import machines, pace
from pipeline.cluster.room import refuse_memory
from pipeline.heads import roles
from pipeline.heads.names import neurons_name
from pipeline.identity import over, settings
from pipeline.neurons import code_accuracy, coding
from pipeline.neurons.choices import parse_mlp_layers
from pipeline.neurons.codes import code_table, fit_table, task_bytes
from pipeline.neurons.found_directions import read_directions
from pipeline.neurons.results import second_order_result
from pipeline.neurons.tables import CODES
from pipeline.neurons.truth import truth_facts
from pipeline.pages import tables
from pipeline.pages.html import as_file
from pipeline.pages.neuron_figure import codes_figure
from pipeline.stats.accuracy import ChanceWarning
from pipeline.texts import Pool
from pipeline.texts.classes import Classes, class_means, classes_digest, texts_digest
from pipeline.texts.encoding import TextEncoder, store_model
from storage.results import Result
from storage.store import Store

JOB = "omp"
# Neurons without effect that the summary names.
DEAD_LISTED = 10


def run(config: OmpConfig, pool: Pool, classes: Classes | None) -> coding.FoundCodes:
    """Code the neurons, classify with the codes, compare with the truth where it is known."""
    started = time.monotonic()
    console.print(pool.report)
    store = opened(config.store)
    layers = parse_mlp_layers(config.mlp_layers, store.meta)
    if classes is not None:
        code_accuracy.check(store, layers, config.label_column, classes)
    finished = over(store)
    effects = second_order_result(store, layers, finished)
    identity = {
        "settings": settings(config) | {"mlp_layers": list(layers)},
        "over": finished,
        "pool": texts_digest(pool.texts),
        "classes": classes_digest(classes),
        "second_order": effects.name,
        "known": coding.known_layers(store, layers),
    }
    make = partial(find, config, identity, store, pool, classes, effects)
    result = found_or_made(store.url, JOB, identity, make)
    run = coding.read_codes(result)
    show(run)
    first = run.fits.iloc[0]
    show_done(
        closing(run, store),
        time.monotonic() - started,
        result,
        next_command(config, int(first.layer), int(first.neuron)),
    )
    return run


def find(
    config: OmpConfig,
    identity: dict[str, Any],
    store: Store,
    pool: Pool,
    classes: Classes | None,
    effects: Result,
) -> Result:
    """Code the neurons of a second-order result, and keep what is found."""
    layers = identity["settings"]["mlp_layers"]
    directions = read_directions(effects, layers)
    encoder = TextEncoder(store, config.pretrained)
    encoded = embedded(encoder, pool.source, pool.texts)
    coding.refuse_texts(encoded)
    neurons, texts = len(directions.alive), encoded.embeddings
    seconds = pace.of_products(2.0 * neurons * config.terms * texts.size)
    if classes is not None:
        seconds += len(layers) * pace.of_shards(store.meta, len(store.done_shards()))
    machines.settle(seconds, f"{neurons:,} neurons, {len(texts):,} texts", TELLER.say)
    show_plan(len(directions.alive), encoded.embeddings, config.terms)
    codes = coding.code(
        directions, encoded.embeddings, config.method, config.terms,
        written=classes is not None, teller=TELLER,
    )  # fmt: skip
    kept = {
        "codes": code_table(codes, directions.alive, pool.texts),
        "fits": fit_table(codes, directions.alive),
    }
    files, warned, truths = {}, [], {}
    if classes is not None or identity["known"]:
        model = store_model(store, config.pretrained)
        if classes is not None:
            readout = embedded(encoder, f"classes {config.classes}", classes.flat).embeddings
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always", ChanceWarning)
                kept["accuracy"] = coding.accuracies(
                    store, model, classes, class_means(readout, classes), config.label_column,
                    directions, codes, TELLER,
                )  # fmt: skip
            warned = sorted({str(warning.message) for warning in raised})
            for layer in sorted(kept["codes"]["layer"].unique()):
                figure = codes_figure(kept["accuracy"], layer)
                title = f"Accuracy with codes in place of the neurons of MLP layer {layer}"
                files[f"accuracy-layer-{layer:02d}.html"] = as_file(title, figure)
        truths = coding.truths(store, model, directions, kept["codes"], pool.texts, TELLER)
        if truths:
            kept["truth"] = pd.concat([t.table for t in truths.values()], ignore_index=True)
    facts = {
        "mlp_layers": layers,
        "dead": [list(neuron) for neuron in directions.dead],
        "second_order": effects.url,
        "texts": encoded.result.url,
        "truth": {str(i): list(truth_facts(t).items()) for i, t in truths.items()},
        "measured": {str(i): t.facts() for i, t in truths.items()},
        "warnings": warned,
    } | ({} if classes is None else {"classes": len(classes.names)})
    return save(
        store.url, JOB, config, facts,
        identity=identity, tables=kept, schemas=CODES, files=files,
    )  # fmt: skip


def next_command(config: OmpConfig, layer: int, neuron: int) -> str:
    """A neuron with its texts."""
    return command(
        "show",
        "neuron",
        store=config.store,
        layer=layer,
        neuron=neuron,
        pretrained=config.pretrained,
    )


def show_plan(neurons: int, texts: NDArray[np.float32], terms: int) -> None:
    """What it will take; refused where no node of the cluster can hold a task."""
    task = task_bytes(len(texts), texts.shape[1], terms)
    show_table(
        "plan",
        {
            "neurons": f"{neurons:,}",
            "pool": f"{len(texts):,} texts, {naturalsize(texts.nbytes)} shared by all",
            "memory": f"{naturalsize(task)} a task",
        },
    )
    refuse_memory(task, "give a smaller pool", what="a task")


def show(run: coding.FoundCodes) -> None:
    """How well the codes fit, how they classify, and what is known of them."""
    facts = {}
    for most, fits in run.fits.groupby("most"):
        texts = f"{most} texts" if (fits["terms"] == most).all() else f"up to {most} texts"
        facts[texts] = f"{fits['residual'].median():.3f} of a direction is left"
    show_table("median fit", facts)
    if run.accuracy is not None:
        console.print(tables.accuracies(run.accuracy))
    for layer, found in run.truths.items():
        show_table(f"layer {layer}", truth_facts(found))
    for warning in run.result.provenance["warnings"]:
        console.print(f"WARNING: {warning}", style="bold red")


def closing(run: coding.FoundCodes, store: Store) -> dict[str, str]:
    """Which neurons were coded and which not; what would be needed to know more."""
    listed = neurons_name(run.dead[:DEAD_LISTED])
    more = "" if len(run.dead) <= DEAD_LISTED else ", … (all in provenance.json)"
    facts = {
        "neurons": f"{run.fits[['layer', 'neuron']].drop_duplicates().shape[0]:,}",
        "without effect": f"{len(run.dead):,}, not coded" + (f": {listed}{more}" if listed else ""),
    }
    if roles.known_attributes(store) and not run.truths:
        layers = ",".join(map(str, run.result.provenance["mlp_layers"]))
        first = command("second-order", store=store.url, mlp_layers=layers, keep="coefficients")
        facts["known truth"] = f"needs neurons in the store: `{first}`"
    return facts
