"""Zero-shot accuracy when parts of the model are replaced by their means, from the store alone.

    facet ablate --store out/ --classes imagenet --study mlps layers

The study of neurons runs the model where their coefficients are not kept.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro

from jobs.console import TELLER, console, progress_bar, run_job, say_found, show_next, show_table
from jobs.settings import choose_place, command, refuse_unused
from jobs.steps import embedded, reduced
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.heads import ablation, studies
from pipeline.heads.describe import describe_heads, heads_of, refuse_one_image
from pipeline.heads.tables import ABLATIONS
from pipeline.identity import found_before, over, settings
from pipeline.neurons import ablation as neuron_studies
from pipeline.neurons import comparison
from pipeline.neurons.results import parse_mlp_layers, second_order_result
from pipeline.neurons.setup import EffectsSpec, cpu_model, plan_effects
from pipeline.neurons.tables import EFFECTS
from pipeline.pages import tables
from pipeline.pages.figures import ablation_figures, png
from pipeline.provenance import revision, versions
from pipeline.stats.accuracy import ChanceWarning, Outcomes, join
from pipeline.subsets import check_where
from pipeline.texts import Pool, load_classes, load_pool
from pipeline.texts.classes import Classes, class_means, classes_digest, texts_digest
from pipeline.texts.encoding import TextEncoder
from storage import open_store, urls
from storage.errors import FacetError
from storage.reductions import Reductions
from storage.results import Result, as_table, save_result
from storage.store import Store

JOB = "ablate"
Baseline = Literal["random", "common-words"]


@dataclass(frozen=True)
class AblateConfig:
    """Zero-shot accuracy when parts of the model are replaced by their means."""

    store: str
    """The store: a local path or an object-store URL."""
    classes: str
    """imagenet, microworld:<attribute>, or a text file with one class (or label<TAB>name) a
    line."""
    study: tuple[studies.Study, ...] = ("mlps", "layers", "heads")
    """What is ablated: all MLPs; attention layers, accumulated and alone; single heads; what
    heads write from the class token, in the layers whose tokens the store keeps; all but TextSpan's
    first texts; --heads; the second-order effects of the neurons of --mlp-layers; or, to compare,
    their first-order, indirect and second-order effects."""
    label_column: str = "label"
    """Column of the image table that says what an image shows."""
    where: str | None = None
    """Which images are classified, by columns of the image table."""
    reference: str | None = None
    """Which images the means are taken over; by default all."""
    heads: tuple[str, ...] = ()
    """For --study chosen: heads as layer.head, such as 3.0 3.2."""
    pool: str | None = None
    """For --study textspan: the pool that describes the heads, as in facet textspan."""
    layers: str = "last:4"
    """For --study textspan: layers whose heads are described; all else is replaced by means."""
    texts_per_head: tuple[int, ...] = (10, 20, 30, 40, 50, 60)
    """For --study textspan: how many texts a head keeps."""
    baselines: tuple[Baseline, ...] = ("random", "common-words")
    """For --study textspan: pools of the same size to compare with."""
    mlp_layers: str = "last:3"
    """For --study neurons, for which facet second-order was run, and effects: all, last:3, 8-10,
    1,3."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    workers: Where = "ray"
    """Where work is done: on a Ray cluster that is joined or started, or here, in this process."""


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


def main(config: AblateConfig) -> AblateRun:
    """Make what is missing, classify with every ablation, compare."""
    started = time.monotonic()
    choose_place(config)
    check_settings(config)
    classes = load_classes(config.classes)
    store = open_store(config.store)
    chosen = check(config, store)
    identity = identity_of(config, store, classes)
    result = found_before(store.url, JOB, identity)
    if result is None:
        result = find(config, identity, store, classes, chosen)
    else:
        say_found(result.url)
    run = read(result)
    show(run, time.monotonic() - started)
    show_next(command("show", "ablate", store=config.store))
    return run


def identity_of(config: AblateConfig, store: Store, classes: Classes) -> dict[str, Any]:
    """All that decides what is found."""
    pools: list[Pool] = []
    effects = None
    if "textspan" in config.study:
        pools = [load_pool(config.pool or "")]
        if "common-words" in config.baselines:
            pools.append(load_pool(f"common-words:{len(pools[0].texts)}"))
    if "neurons" in config.study:
        layers = parse_mlp_layers(config.mlp_layers, store.meta.layers)
        effects = second_order_result(store, layers).name
    return {
        "settings": settings(config),
        "over": over(store),
        "classes": classes_digest(classes),
        "pools": [texts_digest(pool.texts) for pool in pools],
        "second_order": effects,
    }


def find(
    config: AblateConfig,
    identity: dict[str, Any],
    store: Store,
    classes: Classes,
    chosen: list[ablation.Head],
) -> Result:
    """Classify with every ablation, compare, and keep what is found."""
    urls.check_writable(store.url)
    encoder = TextEncoder(store, config.pretrained)
    encoded = embedded(encoder, f"classes {config.classes}", classes.flat)
    readout = class_means(encoded.embeddings, classes)
    made: list[studies.Step | studies.NamedStep] = []
    parts: list[Outcomes] = []
    direct = direct_studies(config)
    reductions = reduced(store, config.reference, components(config))
    if direct:
        steps = studies.steps(
            ablation.ModelSize(store.meta.layers, store.meta.heads),
            direct,
            spans=spans(config, store, reductions, encoder) if "textspan" in direct else None,
            counts=config.texts_per_head,
            chosen=chosen,
            token_layers=store.meta.token_layers,
        )
        made += steps
        parts.append(direct_outcomes(config, store, reductions, classes, readout, steps))
    explained = None
    if set(config.study) & {"neurons", "effects"}:
        steps_of_neurons, found_of_neurons, explained = neuron_parts(
            config, store, classes, readout
        )
        made += steps_of_neurons
        parts += found_of_neurons
    found = join(parts)
    studies.refuse_none(found, config.where)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", ChanceWarning)
        accuracy = studies.study_table(found, classes, made)
    provenance = {
        "reference_images": reductions.count("embedding"),
        "token_layers": list(store.meta.token_layers),
        "classified": found.images,
        "ablations": len(made),
        "warnings": sorted({str(warning.message) for warning in raised}),
        "versions": versions(),
        "revision": revision(),
    }
    return save(config, identity, store, provenance, accuracy, explained)


def read(result: Result) -> AblateRun:
    """What a finished run found."""
    effects = None
    if "effects" in result.config["study"]:
        effects = result.table("effects").to_pandas()
    return AblateRun(result, result.table("accuracy").to_pandas(), effects)


def show(run: AblateRun, seconds: float) -> None:
    """Accuracies, what one direction explains, and what they are over."""
    known = run.result.provenance
    console.print(tables.accuracies(run.accuracy))
    for warning in known["warnings"]:
        console.print(f"WARNING: {warning}", style="bold red")
    if run.effects is not None:
        show_table("variance along the first principal component", explained_facts(run.effects))
    images = known["reference_images"]
    show_table(
        "done",
        {
            "classified": f"{known['classified']:,} images, {known['ablations']:,} ablations",
            "means over": f"{images:,} images",
            "this run": f"{seconds:.0f} s",
            "kept in": run.result.url,
        },
    )


def direct_studies(config: AblateConfig) -> list[studies.DirectStudy]:
    """The studies of contributions to the output."""
    return [study for study in config.study if study != "neurons" and study != "effects"]


def components(config: AblateConfig) -> tuple[str, ...]:
    """What the studies need the means of; those of embeddings tell how many images there are."""
    direct = ("heads", "mlps") if direct_studies(config) else ()
    return (*direct, *(["tokens"] if "class-token" in config.study else []), "embedding")


def direct_outcomes(
    config: AblateConfig,
    store: Store,
    reductions: Reductions,
    classes: Classes,
    readout: np.ndarray,
    steps: list[studies.Step],
) -> Outcomes:
    """What becomes of images when contributions are ablated."""
    plan = studies.Plan(
        url=store.url,
        where=config.where,
        label_column=config.label_column,
        classes=classes,
        readout=ablation.Readout(studies.maps_of(store), readout),
        means=studies.reduced_means(reductions),
        ablations=[step.ablation for step in steps],
    )
    machines.connect()
    shards = sorted(store.done_shards())
    with progress_bar("shards", len(shards)) as move:
        return studies.run(plan, shards, move)


def neuron_study(
    config: AblateConfig, store: Store, layers: tuple[int, ...]
) -> neuron_studies.NeuronStudy:
    """The model and the workers for studies of neurons."""
    machines.connect()
    model = cpu_model(store, config.pretrained)
    run, _ = plan_effects(store, model, EffectsSpec(layers))
    return neuron_studies.NeuronStudy(
        store, model, run.workers, run.memory, progress_bar, console.print
    )


def neuron_parts(
    config: AblateConfig, store: Store, classes: Classes, readout: np.ndarray
) -> tuple[list[studies.NamedStep], list[Outcomes], pd.DataFrame | None]:
    """Ablations of neurons, what becomes of images, and the comparison of their effects."""
    layers = parse_mlp_layers(config.mlp_layers, store.meta.layers)
    made: list[studies.NamedStep] = []
    parts: list[Outcomes] = []
    explained = None
    study = neuron_study(config, store, layers)
    if "neurons" in config.study:
        made += neuron_studies.steps(layers)
        parts.append(
            study.predict(
                second_order_result(store, layers),
                layers,
                lambda found: neuron_studies.Classify(
                    config.where, config.label_column, classes, readout, found
                ),
                config.reference,
            )
        )
    if "effects" in config.study:
        made += comparison.steps(layers)
        predicted, explained = comparison.compare(
            study, layers, config.where, config.reference, config.label_column, classes, readout
        )
        parts.append(predicted)
    return made, parts, explained


def check_settings(config: AblateConfig) -> None:
    """Refuse settings that do not go together, before a store is looked for."""
    if not config.study:
        raise FacetError("--study: name at least one study")
    if "textspan" in config.study:
        if config.pool is None:
            raise FacetError("--study textspan needs --pool: which texts may describe the heads")
        if not config.texts_per_head or min(config.texts_per_head) < 1:
            raise FacetError(f"--texts-per-head {config.texts_per_head}: give numbers from 1")
    else:
        of_textspan = ["pool", "layers", "texts_per_head", "baselines"]
        refuse_unused(config, of_textspan, "--study textspan")
    if not set(config.study) & {"neurons", "effects"}:
        refuse_unused(config, ["mlp_layers"], "--study neurons and effects")
    if ("chosen" in config.study) != bool(config.heads):
        raise FacetError("--study chosen and --heads go together: which heads are replaced")


def check(config: AblateConfig, store: Store) -> list[ablation.Head]:
    """Refuse what cannot work before anything is read; returns the chosen heads."""
    studies.check(store, direct_studies(config), config.label_column)
    if "neurons" in config.study:
        second_order_result(store, parse_mlp_layers(config.mlp_layers, store.meta.layers))
    for subset in (config.where, config.reference):
        check_where(store, subset)
    return [head(text, store) for text in dict.fromkeys(config.heads)]


def head(text: str, store: Store) -> ablation.Head:
    """``layer.head`` as two numbers."""
    layer, _, number = text.partition(".")
    m = store.meta
    if not (layer.isdecimal() and number.isdecimal()):
        raise FacetError(f"--heads {text!r}: write layer.head, such as 3.0")
    if int(layer) >= m.layers or int(number) >= m.heads:
        raise FacetError(
            f"--heads {text}: the model has layers 0-{m.layers - 1}, heads 0-{m.heads - 1}"
        )
    return int(layer), int(number)


def spans(
    config: AblateConfig, store: Store, reductions: Reductions, encoder: TextEncoder
) -> dict[str, dict[ablation.Head, np.ndarray]]:
    """Directions of the described heads, by pool: TextSpan's texts and the baselines."""
    refuse_one_image(reductions)
    heads = heads_of(config.layers, store)
    pool = load_pool(config.pool or "")
    console.print(pool.report)
    count = len(pool.texts)
    pools = {f"TextSpan, {pool.source}": embedded(encoder, pool.source, pool.texts)}
    texts = {name: encoded.embeddings for name, encoded in pools.items()}
    if "common-words" in config.baselines:
        words = load_pool(f"common-words:{count}")
        texts["common words"] = embedded(encoder, words.source, words.texts).embeddings
    if "random" in config.baselines:
        texts["random directions"] = ablation.random_directions(count, store.meta.embed)
    rounds = max(config.texts_per_head)
    machines.connect()
    directions = {
        name: describe_heads(store, reductions, heads, rows, rounds, teller=TELLER).directions
        for name, rows in texts.items()
    }
    return {name: dict(zip(heads, rows, strict=True)) for name, rows in directions.items()}


def explained_facts(explained: pd.DataFrame) -> dict[str, str]:
    """Each layer and effect in a line."""
    return {
        f"MLP layer {row.layer}, {row.effect}": f"{row.explained:.0%} (mean of {row.neurons} "
        f"neurons over {row.images} images)"
        for row in explained.itertuples()
    }


def save(
    config: AblateConfig,
    identity: dict[str, Any],
    store: Store,
    provenance: dict[str, Any],
    accuracy: pd.DataFrame,
    explained: pd.DataFrame | None,
) -> Result:
    """The table, a picture a study, and how they came about."""
    tables = {"accuracy": accuracy} | ({} if explained is None else {"effects": explained})
    return save_result(
        store.url,
        JOB,
        asdict(config),
        provenance,
        identity=identity,
        tables={n: as_table(t, (ABLATIONS | EFFECTS)[n]) for n, t in tables.items()},
        files={f"{n}.png": png(figure) for n, figure in ablation_figures(accuracy).items()},
    )


if __name__ == "__main__":
    run_job(main, tyro.cli(AblateConfig, description=__doc__))
