"""The recipe of ``facet show``: what is read of a kind of result, and which table shows it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table

from jobs.console import console, show_table
from jobs.settings import ELIDED, command
from jobs.show import ShowConfig
from pipeline.adversarial.answers import adversarial
from pipeline.between.answers import aligned
from pipeline.concepts.answers import concepts_found
from pipeline.heads.answers import ablated, compared_sets, described_heads
from pipeline.heads.names import neuron_name
from pipeline.heads.shares import shares
from pipeline.heatmaps.answers import segmented
from pipeline.heatmaps.found import read as read_heatmaps
from pipeline.identity import over
from pipeline.labels.answers import labelled
from pipeline.neurons.answers import coded, strongest
from pipeline.pages import between, flat, tables
from pipeline.pages.adversarial import adversarial_table
from pipeline.pages.concepts import concepts_tables
from pipeline.pages.plain import to_json
from pipeline.pages.reader import READ
from pipeline.repair.answers import repaired
from pipeline.rosetta.answers import inverted
from pipeline.search.found import Found
from storage import open_store, urls
from storage.errors import StoreError
from storage.layout import RESULTS
from storage.results import Result, index, latest_result, read_index, write_index
from storage.rosetta import find_setup
from storage.store import Store


@dataclass(frozen=True, eq=False)
class Answer:
    """What was asked for, as data.

    Attributes
    ----------
    result : str
        URL of the result that it is from.
    older : bool
        Whether the store holds other images now than those that the result is over.
    found : object
        By kind: what the functions of ``KINDS`` return.
    """

    result: str
    older: bool
    found: Any


@dataclass(frozen=True)
class Kind:
    """What finds one kind of answer, what shows it to people, and its one flat table."""

    find: Callable[[ShowConfig], Answer]
    show: Callable[[ShowConfig, Answer], None]
    flat: Callable[[Any], pd.DataFrame]


def run(config: ShowConfig) -> Answer:
    """Find the latest result; print it, for people or for machines."""
    kind = KINDS[config.what]
    if config.format == "table":
        answer = kind.find(config)
        kind.show(config, answer)
        return answer
    place = urls.absolute(config.out) if config.out is not None else ""
    if config.format == "parquet":
        urls.check_writable(place.rpartition("/")[0] or "/", "out")
    with redirect_stdout(sys.stderr):  # whatever is said on the way is no part of the document
        answer = kind.find(config)
    if config.format == "json":
        print(to_json(answer))
    elif config.format == "csv":
        print(kind.flat(answer.found).to_csv(index=False), end="")
    else:
        urls.put_bytes(place, kind.flat(answer.found).to_parquet(index=False))
        console.print(place)
    return answer


def refuse_unwritable(config: ShowConfig, place: str) -> None:
    """Refuse a place that pictures cannot be written to, before any is made.

    Parameters
    ----------
    place : str
        Where they go unless the configuration says otherwise.
    """
    if config.format == "table":
        urls.check_writable(place if config.out is None else urls.absolute(config.out), "out")


# -- what a store's results say ------------------------------------------------------------


def of_store(find: Callable[[Store, Result, int], Any]) -> Callable[[ShowConfig], Answer]:
    """The answer of a job's latest result in a store."""

    def answer(config: ShowConfig) -> Answer:
        store = open_store(config.store)
        result = latest_result(store.url, config.what.replace("-", "_"))
        return Answer(result.url, is_older(store, result), find(store, result, config.top))

    return answer


def find_sources(config: ShowConfig) -> Answer:
    """How much heads wrote from each source of tokens, of images spread over the store."""
    store = open_store(config.store)
    return Answer(store.url, False, shares(store, READ))


def show_sources(config: ShowConfig, answer: Answer) -> None:
    """A table of the shares, a row a layer."""
    console.print(tables.sources(answer.found))


def is_older(store: Store, result: Result) -> bool:
    """Whether the store holds other images now than those that a result is over."""
    then = result.provenance.get("identity", {}).get("over")
    return then is not None and then != over(store)


def table_of(
    table: Callable[[ShowConfig, Any], RenderableType],
) -> Callable[[ShowConfig, Answer], None]:
    """Shows an answer as a table, or as several."""

    def show(config: ShowConfig, answer: Answer) -> None:
        console.print(table(config, answer.found))
        say_older(config, answer, config.what)
        console.print(answer.result)

    return show


def say_older(config: ShowConfig, answer: Answer, job: str) -> None:
    """Say so where the store holds other images now than those that a result is over."""
    if answer.older:
        console.print(
            "NOTE: this was found over other images than those that are finished now; the same "
            f"facet {job} again counts them in"
        )


def codes_table(config: ShowConfig, found: Any) -> Table:
    """Texts of the strongest neurons; before them accuracies and truth, where kept."""
    if found.accuracy is not None:
        console.print(tables.accuracies(found.accuracy))
    for layer, facts in found.truth.items():
        show_table(f"layer {layer}", facts)
    return tables.codes(found.neurons, config.top)


# -- one neuron ----------------------------------------------------------------------------


def find_neuron(config: ShowConfig) -> Answer:
    """What one neuron means."""
    from pipeline.neurons.about import about_neuron  # models take seconds to import

    assert config.layer is not None  # checked
    assert config.neuron is not None
    store = open_store(config.store)
    refuse_unwritable(config, store.url)
    found, effects = about_neuron(store, config.layer, config.neuron, config.pretrained)
    if config.format != "table":
        found = replace(found, texts=found.texts[: config.top])
    return Answer(effects.url, is_older(store, effects), found)


def show_neuron(config: ShowConfig, answer: Answer) -> None:
    """Write one neuron's page and print its texts."""
    from pipeline.pages.html import as_file
    from pipeline.pages.neuron_figure import neuron_figure

    found = answer.found
    folder = answer.result if config.out is None else urls.absolute(config.out)
    place = urls.join(folder, f"neuron-{found.layer:02d}-{found.neuron:05d}.html")
    shown = as_file(neuron_name(found.layer, found.neuron), neuron_figure(found))
    urls.put_bytes(place, shown)
    console.print(tables.neuron(found, config.top))
    images = ", ".join(str(image.image) for image in found.images)
    facts = {"top images": images, "histogram over": found.norms.over}
    for image in found.images:
        if image.unreadable is not None:
            facts[f"image {image.image}"] = (
                f"is not to be had as it was, drawn grey: {image.unreadable}"
            )
    say_older(config, answer, "second-order")
    if not found.coded:
        first = command("omp", store=config.store, mlp_layers=config.layer, pool=ELIDED)
        facts["texts"] = f"none: run `{first}`"
    elif not found.texts:
        facts["texts"] = "none: the neuron has no effect"
    show_table("done", facts)
    console.print(place)


# -- shared concepts -----------------------------------------------------------------------


def find_concepts(config: ShowConfig) -> Answer:
    """Concepts that all models share."""
    from pipeline.rosetta.page import find_dictionary  # imports models

    url = urls.absolute(config.store)
    if config.out is not None or find_setup(url) is not None:  # no folder is made for nothing
        refuse_unwritable(config, url)
    found = find_dictionary(url)
    return Answer(found.result, False, found)


def show_concepts(config: ShowConfig, answer: Answer) -> None:
    """Write the dictionary of shared concepts and print its list."""
    from pipeline.rosetta.page import write_dictionary

    folder = answer.result if config.out is None else urls.absolute(config.out)
    page = write_dictionary(answer.found, folder)
    console.print(concepts_table(answer.found.concepts))
    show_table("done", answer.found.facts)
    console.print(page)


def find_inversions(config: ShowConfig) -> Answer:
    """What inversions through shared units found."""
    result = latest_result(urls.absolute(config.store), "invert")
    return Answer(result.url, False, inverted(result))


def concepts_table(concepts: Sequence[Any]) -> Table:
    """The hub's unit of every concept, and how well the others go with it."""
    columns = ["concept", "hub's unit", "correlation", "in both halves"]
    table = tables.titled("Concepts that all models share", *columns)
    for concept in concepts:
        hub = concept.members[0]
        halves = "yes" if concept.replicates else "no"
        cells = [str(concept.number), f"{hub.layer} {hub.unit}", f"{concept.strength:.3f}", halves]
        table.add_row(*cells)
    return table


# -- all results ---------------------------------------------------------------------------


def find_results(config: ShowConfig) -> Answer:
    """The list of results, from themselves; the index beside them is mended where it may be."""
    url = urls.absolute(config.store)
    found = index(url)
    if not len(found):
        open_store(url)  # which says so where there is none
        raise StoreError(f"no results in {url}")
    if (kept := read_index(url)) is None or not kept.equals(found):
        with contextlib.suppress(OSError, StoreError):  # a store that may only be read
            write_index(url)
    rows = [{**row, "settings": json.loads(row["settings"])} for row in found.to_pylist()]
    return Answer(urls.join(url, RESULTS), False, rows)


KINDS = {
    "textspan": Kind(
        of_store(lambda store, result, top: described_heads(result, top)),
        table_of(lambda config, found: tables.heads(found, config.top)),
        flat.heads,
    ),
    "label": Kind(
        of_store(lambda store, result, top: labelled(result)),
        table_of(lambda config, found: Group(tables.labels(found), tables.label_scores(found))),
        lambda found: found.labels,
    ),
    "ablate": Kind(
        of_store(lambda store, result, top: ablated(result)),
        table_of(lambda config, found: tables.accuracies(found.accuracy)),
        lambda found: found.accuracy,
    ),
    "compare": Kind(
        of_store(lambda store, result, top: compared_sets(result, top)),
        table_of(lambda config, found: tables.two_sets(found)),
        flat.two_sets,
    ),
    "align": Kind(
        of_store(lambda store, result, top: aligned(result, top)),
        table_of(lambda config, found: between.matches_table(found)),
        between.flat_texts,
    ),
    "second-order": Kind(
        of_store(lambda store, result, top: strongest(result.table("neurons").to_pandas())),
        table_of(lambda config, found: tables.effects(found)),
        lambda found: found,
    ),
    "omp": Kind(of_store(coded), table_of(codes_table), lambda found: flat.codes(found.neurons)),
    "segment": Kind(
        of_store(lambda store, result, top: segmented(result)),
        table_of(lambda config, found: tables.segmentation(found)),
        lambda found: found.methods,
    ),
    "sources": Kind(find_sources, show_sources, flat.sources),
    "neuron": Kind(find_neuron, show_neuron, lambda found: flat.codes([found])),
    "heatmap": Kind(
        of_store(lambda store, result, top: read_heatmaps(result)),
        table_of(lambda config, found: tables.heatmaps(found)),
        lambda found: found.table,
    ),
    "concepts": Kind(
        of_store(lambda store, result, top: concepts_found(result)),
        table_of(lambda config, found: concepts_tables(found, config.top)),
        lambda found: found.over if found.concepts is None else found.concepts,
    ),
    "adversarial": Kind(
        of_store(lambda store, result, top: adversarial(result)),
        table_of(lambda config, found: adversarial_table(found)),
        lambda found: found.table,
    ),
    "repair": Kind(
        of_store(lambda store, result, top: repaired(result)),
        table_of(lambda config, found: tables.repair(found)),
        lambda found: found.accuracy,
    ),
    "search": Kind(
        of_store(lambda store, result, top: Found.of(result)),
        table_of(lambda config, found: tables.searched(found)),
        lambda found: found.table,
    ),
    "rosetta": Kind(find_concepts, show_concepts, lambda found: flat.concepts(found.concepts)),
    "invert": Kind(
        find_inversions,
        table_of(lambda config, found: tables.inversions(found.figures)),
        lambda found: found.figures,
    ),
    "results": Kind(
        find_results, table_of(lambda config, found: tables.results(found)), flat.results
    ),
}
