"""Describe neurons by sparse codes: a few texts, with signs, that sum to what a neuron writes.

    facet omp --store out/ --mlp-layers 9 --pool common-words:10000

Starts from the directions that `facet second-order` found. Text embeddings that are missing are
made first.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import tyro
from humanize import naturalsize
from numpy.typing import NDArray

from jobs import encode_texts
from jobs.console import console, progress_bar, run_job, say_found, show_next, show_table
from jobs.settings import refuse_unused
from jobs.show import accuracy_table
from pipeline.cluster import machines
from pipeline.heads import roles, studies
from pipeline.identity import found_before, over, settings
from pipeline.models import VisionModel
from pipeline.neurons import code_accuracy
from pipeline.neurons import codes as neuron_codes
from pipeline.neurons import truth as neuron_truth
from pipeline.neurons.codes import Method, Neuron, NeuronCodes
from pipeline.neurons.maps import SecondOrderMaps, second_order_maps
from pipeline.neurons.omp import build_dictionary
from pipeline.neurons.results import parse_mlp_layers, second_order_result
from pipeline.neurons.rows import pack
from pipeline.pages.figures import png
from pipeline.provenance import revision, versions
from pipeline.stats.accuracy import ChanceWarning
from pipeline.texts import Pool, load_classes, load_pool
from pipeline.texts.classes import Classes, class_means, classes_digest, texts_digest
from pipeline.texts.encoding import Encoded, TextEncoder, store_model
from storage import open_store, urls
from storage.errors import FacetError, command
from storage.results import Result, save_result
from storage.store import Store

JOB = "omp"
# Neurons without effect that the summary names.
DEAD_LISTED = 10


@dataclass(frozen=True)
class OmpConfig:
    """Describe neurons by sparse codes: a few texts, with signs, that sum to what they write."""

    store: str
    """The store: a local path or an object-store URL."""
    mlp_layers: str
    """MLP layers whose neurons are described: all, last:3, 8-10, 1,3."""
    pool: str
    """A text file (one a line), a Parquet file, or general, imagenet-classes, common-words:N,
    microworld."""
    terms: int = 128
    """Texts that a neuron's code may have; fits are also reported for 4, 8, 16, … up to these."""
    method: Method = "omp"
    """Orthogonal matching pursuit; the same with coefficients that are never negative; or the
    lasso's path, which takes seconds a neuron where the pool is large."""
    classes: str | None = None
    """Also classify with every neuron's direction replaced by its code: imagenet,
    microworld:<attribute>, or a text file with one class (or label<TAB>name) a line."""
    label_column: str = "label"
    """For --classes: column of the image table that says what an image shows."""
    pretrained: str | None = None
    """The weights file, where the store was made from one."""


@dataclass(frozen=True, eq=False)
class OmpRun:
    """What was found.

    Attributes
    ----------
    result : Result
        Where it is kept.
    codes, fits : DataFrame
    dead : list of (layer, neuron)
        Neurons without any effect, which were not coded.
    accuracy : DataFrame or None
    truths : dict of int to NeuronTruth
        By layer, where the images' attributes are known and the store keeps neurons.
    """

    result: Result
    codes: pd.DataFrame
    fits: pd.DataFrame
    dead: list[Neuron]
    accuracy: pd.DataFrame | None
    truths: dict[int, neuron_truth.NeuronTruth]


def main(config: OmpConfig) -> OmpRun:
    """Code the neurons, classify with the codes, compare with the truth where it is known."""
    started = time.monotonic()
    if config.terms < 1:
        raise FacetError(f"--terms {config.terms}: must be at least 1")
    if config.classes is None:
        refuse_unused(config, ["label_column"], "--classes")
    pool = load_pool(config.pool)
    console.print(pool.report)
    if len(pool.texts) < max(2, config.terms):
        raise FacetError(
            f"--pool {pool.source} has {len(pool.texts)} texts, and --terms {config.terms} are to "
            "be picked from them: give a larger pool or fewer --terms"
        )
    classes = None if config.classes is None else load_classes(config.classes)
    store = open_store(config.store)
    layers = parse_mlp_layers(config.mlp_layers, store.meta.layers)
    if classes is not None:
        code_accuracy.check(store, layers, config.label_column, classes)
    found = second_order_result(store, layers)
    identity = {
        "settings": settings(config) | {"mlp_layers": list(layers)},
        "over": over(store),
        "pool": texts_digest(pool.texts),
        "classes": classes_digest(classes),
        "second_order": found.name,
        "known": known(store, layers),
    }
    result = found_before(store.url, JOB, identity)
    if result is None:
        result = find(config, identity, store, layers, pool, classes, found)
    else:
        say_found(result.url)
    run = read(result)
    show(run, store, time.monotonic() - started)
    for warning in result.provenance["warnings"]:
        console.print(f"WARNING: {warning}", style="bold red")
    coded = run.fits.iloc[0]
    show_next(next_command(config, int(coded.layer), int(coded.neuron)))
    return run


def find(
    config: OmpConfig,
    identity: dict[str, Any],
    store: Store,
    layers: tuple[int, ...],
    pool: Pool,
    classes: Classes | None,
    found: Result,
) -> Result:
    """Code the neurons of a second-order result, and keep what is found."""
    urls.check_writable(store.url)
    directions = directions_of(found, layers)
    alive = [(i, int(n)) for i in layers for n in np.flatnonzero(directions[i].any(1))]
    dead = [(i, int(n)) for i in layers for n in np.flatnonzero(~directions[i].any(1))]
    if not alive:
        raise FacetError(
            f"none of the {len(dead)} neurons of MLP layers {config.mlp_layers} has any effect"
        )
    encoder = TextEncoder(store, config.pretrained)
    encoded = encode_texts.encode(encoder, pool.source, pool.texts)
    refuse_texts(encoded)
    machines.connect()
    show_plan(alive, encoded, config)
    codes = code(config, encoded, directions, alive, written=classes is not None)
    table = neuron_codes.code_table(codes, alive, pool.texts)
    fits = neuron_codes.fit_table(codes, alive)
    model = None
    if classes is not None or known(store, layers):
        model = store_model(store, config.pretrained)
    accuracy, warned = None, []
    if classes is not None and model is not None:
        readout = encode_texts.encode(encoder, f"classes {config.classes}", classes.flat)
        rows = class_means(readout.embeddings, classes)
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always", ChanceWarning)
            accuracy = accuracies(config, store, model, classes, rows, directions, alive, codes)
        warned = sorted({str(warning.message) for warning in raised})
    truths = {
        layer: truth(store, model, layer, directions[layer], table, pool.texts)
        for layer in known(store, layers)
        if model is not None
    }
    return save(
        config,
        identity,
        store,
        table,
        fits,
        accuracy,
        truths,
        {
            "mlp_layers": list(layers),
            "dead": [list(neuron) for neuron in dead],
            "second_order": found.url,
            "texts": encoded.result.url,
            "truth": {str(i): list(neuron_truth.truth_facts(t).items()) for i, t in truths.items()},
            "measured": {str(i): measured(t) for i, t in truths.items()},
            "warnings": warned,
        },
    )


def read(result: Result) -> OmpRun:
    """What a finished run found."""
    known = result.provenance
    accuracy = None
    if result.config["classes"] is not None:
        accuracy = result.table("accuracy").to_pandas()
    truths = {}
    if known["measured"]:
        table = result.table("truth").to_pandas()
        truths = {
            int(i): neuron_truth.NeuronTruth(
                table=table[table["layer"] == int(i)].reset_index(drop=True),
                strength=np.array(facts["strength"], np.float32),
                draws=np.array(facts["draws"]),
                **{name: facts[name] for name in ("unnamed", "images", "by")},
            )
            for i, facts in known["measured"].items()
        }
    codes, fits = (result.table(name).to_pandas() for name in ("codes", "fits"))
    dead = [(int(layer), int(neuron)) for layer, neuron in known["dead"]]
    return OmpRun(result, codes, fits, dead, accuracy, truths)


def measured(found: neuron_truth.NeuronTruth) -> dict[str, Any]:
    """What is known of a layer's neurons beside the table, JSON-able."""
    facts = {name: getattr(found, name) for name in ("unnamed", "images", "by")}
    return {**facts, "strength": found.strength.tolist(), "draws": found.draws.tolist()}


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


def directions_of(found: Result, layers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """r of every neuron, (neuron, embed), by layer."""
    data = found.arrays("components")["direction"]
    directions = {i: data.sel(layer=i).values.astype(np.float32) for i in layers}
    for layer, rows in directions.items():
        if bad := int((~np.isfinite(rows).all(1)).sum()):
            raise FacetError(
                f"the directions of {bad} neurons of MLP layer {layer} in {found.url} hold NaN or "
                f"infinite values: run `facet second-order …` again"
            )
    return directions


def refuse_texts(encoded: Encoded) -> None:
    """A text without a direction, before any worker is asked."""
    try:
        build_dictionary(torch.from_numpy(encoded.embeddings))
    except ValueError as error:
        raise FacetError(f"the embeddings in {encoded.result.url}: {error}") from error


def show_plan(alive: Sequence[Neuron], encoded: Encoded, config: OmpConfig) -> None:
    """What it will take; refused where no node of the cluster can hold a task."""
    texts, embed = encoded.embeddings.shape
    task, memory = neuron_codes.task_bytes(texts, embed, config.terms), machines.node_memory()
    show_table(
        "plan",
        {
            "neurons": f"{len(alive):,}",
            "pool": f"{texts:,} texts, {naturalsize(encoded.embeddings.nbytes)} shared by all",
            "memory": f"{naturalsize(task)} a task",
        },
    )
    if task > memory:
        raise FacetError(
            f"a task will need {naturalsize(task)} and the largest node has {naturalsize(memory)}: "
            "give a smaller pool"
        )


def code(
    config: OmpConfig,
    encoded: Encoded,
    directions: dict[int, NDArray[np.float32]],
    alive: Sequence[Neuron],
    written: bool,
) -> NeuronCodes:
    """Codes of the neurons, with a bar."""
    targets_ne = np.stack([directions[layer][neuron] for layer, neuron in alive])
    sizes = neuron_codes.sizes_up_to(config.terms)
    with progress_bar("neurons", len(alive)) as move:
        return neuron_codes.code_neurons(
            encoded.embeddings, targets_ne, config.method, sizes, written, move
        )


def known(store: Store, layers: Sequence[int]) -> list[int]:
    """Layers whose neurons can be held against the truth."""
    if not roles.known_attributes(store):
        return []
    return [layer for layer in layers if neuron_truth.measure(store, layer)]


def accuracies(
    config: OmpConfig,
    store: Store,
    model: VisionModel,
    classes: Classes,
    readout_ce: NDArray[np.float32],
    directions: dict[int, NDArray[np.float32]],
    alive: Sequence[Neuron],
    codes: NeuronCodes,
) -> pd.DataFrame:
    """Accuracy with every size of code, layer by layer."""
    shards = sorted(store.done_shards())
    tables: list[pd.DataFrame] = []
    for layer, directions_ne in directions.items():
        at = np.array([i for i, (of, _) in enumerate(alive) if of == layer], int)
        neurons = [n for of, n in alive if of == layer]
        written = np.zeros((len(codes.sizes), *directions_ne.shape), np.float32)
        if codes.written is not None:
            written[:, neurons] = codes.written[:, at]
        plan = code_accuracy.CodePlan(
            url=store.url,
            layer=layer,
            label_column=config.label_column,
            classes=classes,
            readout_ce=readout_ce,
            maps=pack(cpu_maps(model, layer)),
            means_pn=code_accuracy.layer_means(store, layer),
            directions_ne=directions_ne,
            sizes=codes.sizes,
            written=written,
        )
        with progress_bar(f"accuracy of layer {layer}: shards", len(shards)) as move:
            counted = studies.run(plan, shards, move)
        found = studies.study_table(counted, classes, plan.steps)
        # The model as it is comes once, with the first layer.
        tables.append(found if not tables else found[found["study"] != "none"])
    return pd.concat(tables, ignore_index=True)


def cpu_maps(model: VisionModel, layer: int) -> SecondOrderMaps:
    """A layer's maps where the tasks that read the store want them."""
    return second_order_maps(replace(model, device=torch.device("cpu")), layer)


def truth(
    store: Store,
    model: VisionModel,
    layer: int,
    directions_ne: NDArray[np.float32],
    codes: pd.DataFrame,
    pool: Sequence[str],
) -> neuron_truth.NeuronTruth:
    """Neurons of one layer against what their texts say, with a bar."""
    shards = len(neuron_truth.read_shards(store, layer))
    with progress_bar(f"known truth of layer {layer}: shards", shards) as move:
        fired = neuron_truth.firing(store, layer, cpu_maps(model, layer), directions_ne, move)
    return neuron_truth.truth(layer, codes[codes["layer"] == layer], pool, fired)


def save(
    config: OmpConfig,
    identity: dict[str, Any],
    store: Store,
    codes: pd.DataFrame,
    fits: pd.DataFrame,
    accuracy: pd.DataFrame | None,
    truths: dict[int, neuron_truth.NeuronTruth],
    provenance: dict[str, object],
) -> Result:
    """Tables, a picture a layer of the accuracies, and how they came about."""
    tables, files = {"codes": codes, "fits": fits}, {}
    if accuracy is not None:
        tables["accuracy"] = accuracy
        for layer in sorted(codes["layer"].unique()):
            figure = code_accuracy.codes_figure(accuracy, layer)
            files[f"accuracy-layer-{layer:02d}.png"] = png(figure)
    if truths:
        tables["truth"] = pd.concat([t.table for t in truths.values()], ignore_index=True)
    return save_result(
        store.url,
        JOB,
        asdict(config),
        {**provenance, "versions": versions(), "revision": revision()},
        identity=identity,
        tables={n: pa.Table.from_pandas(t, preserve_index=False) for n, t in tables.items()},
        files=files,
    )


def show(run: OmpRun, store: Store, seconds: float) -> None:
    """How well the codes fit, how they classify, and what is known of them."""
    facts = {}
    for most, fits in run.fits.groupby("most"):
        texts = f"{most} texts" if (fits["terms"] == most).all() else f"up to {most} texts"
        facts[texts] = f"{fits['residual'].median():.3f} of a direction is left"
    show_table("median fit", facts)
    if run.accuracy is not None:
        console.print(accuracy_table(run.accuracy))
    for layer, found in run.truths.items():
        show_table(f"layer {layer}", neuron_truth.truth_facts(found))
    listed = ", ".join(f"{layer}.{neuron}" for layer, neuron in run.dead[:DEAD_LISTED])
    more = "" if len(run.dead) <= DEAD_LISTED else ", … (all in provenance.json)"
    facts = {
        "neurons": f"{run.fits[['layer', 'neuron']].drop_duplicates().shape[0]:,}",
        "without effect": f"{len(run.dead):,}, not coded" + (f": {listed}{more}" if listed else ""),
        "this run": f"{seconds:.0f} s",
        "kept in": run.result.url,
    }
    if roles.known_attributes(store) and not run.truths:
        layers = ",".join(map(str, run.result.provenance["mlp_layers"]))
        first = command("second-order", store=store.url, mlp_layers=layers, keep="coefficients")
        facts["known truth"] = f"needs neurons in the store: `{first}`"
    show_table("done", facts)


if __name__ == "__main__":
    run_job(main, tyro.cli(OmpConfig, description=__doc__))
