"""Print what a job found last; draw a neuron, or the concepts that models share.

facet show textspan --store out/
facet show neuron --store out/ --layer 9 --neuron 4
facet show rosetta --store shared/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import tyro
from rich.box import SIMPLE
from rich.table import Table

from jobs.console import console, run_job, show_table
from jobs.settings import ELIDED, command, refuse_unused
from pipeline.identity import over
from pipeline.neurons.results import latest_effects, parse_mlp_layers
from pipeline.pages.figures import png
from pipeline.pages.heads import signed, top_texts
from storage import open_store, urls
from storage.errors import FacetError, StoreError
from storage.results import Result, finished_results, latest_result
from storage.store import Store

# Neurons of each layer that tables of neurons list.
STRONGEST = 20


@dataclass(frozen=True)
class ShowConfig:
    """Print what a job found last; draw a neuron, or the concepts that models share."""

    what: tyro.conf.Positional[
        Literal["textspan", "ablate", "second-order", "omp", "neuron", "rosetta"]
    ]
    """Which job's results, or one neuron's picture."""
    store: str
    """The store: a local path or an object-store URL. For rosetta: where facet rosetta wrote."""
    top: int = 5
    """Texts to print for each head or neuron."""
    layer: int | None = None
    """For neuron: its MLP layer."""
    neuron: int | None = None
    """For neuron: its number in the layer."""
    out: str | None = None
    """For neuron: the folder for the picture; by default that of the second-order result. For
    rosetta: the folder for page and pictures; by default that of its result."""
    pretrained: str | None = None
    """For neuron: the weights file, where the store was made from one."""


def main(config: ShowConfig) -> Table:
    """Find the latest result and print its table."""
    if config.top < 1:
        raise FacetError(f"--top {config.top}: must be at least 1")
    if config.what == "neuron":
        return show_neuron(config)
    refuse_unused(config, ["layer", "neuron", "pretrained"], "`facet show neuron …`")
    if config.what in ("rosetta", "ablate", "second-order"):
        refuse_unused(config, ["top"], "`facet show textspan …`, omp and neuron")
    if config.what != "rosetta":
        refuse_unused(config, ["out"], "`facet show neuron …` and rosetta")
    else:
        return show_rosetta(config.store, config.out)
    store = open_store(config.store)
    result = latest_result(store.url, config.what.replace("-", "_"))
    table = TABLES[config.what](store, result, config.top)
    console.print(table)
    say_older(store, result)
    console.print(result.url)
    return table


def say_older(store: Store, result: Result) -> None:
    """Say so where the store holds other images now than those that a result is over."""
    then = result.provenance.get("identity", {}).get("over")
    if then is not None and then != over(store):
        console.print(
            "NOTE: this was found over other images than those that are finished now; the same "
            f"facet {result.job.replace('_', '-')} again counts them in"
        )


def head_table(descriptions: pd.DataFrame, top: int) -> Table:
    """The first texts of every head, a row a head."""
    title = f"TextSpan, the first {top} texts of every head"
    table = Table("layer.head", "texts", title=title, title_justify="left", box=SIMPLE)
    for head, texts in top_texts(descriptions, top):
        table.add_row(head, texts)
    return table


def accuracy_table(accuracy: pd.DataFrame) -> Table:
    """Accuracy over all images, a row an ablation; the worst group where groups are known."""
    of_groups = accuracy[accuracy["scope"] == "group"]
    groups = of_groups.groupby("ablation")["accuracy"].min().to_dict()
    columns = ["ablated", "accuracy", "95%", "change", *(["worst group"] if groups else [])]
    table = Table(*columns, title="Zero-shot accuracy", title_justify="left", box=SIMPLE)
    for row in accuracy[accuracy["scope"] == "all"].itertuples():
        cells = [
            str(row.ablation),
            f"{row.accuracy:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            f"{row.change:+.1%}",
        ]
        table.add_row(*cells, *([f"{groups[row.ablation]:.1%}"] if groups else []))
    return table


def strongest(neurons: pd.DataFrame) -> pd.DataFrame:
    """The neurons of each layer whose effects on their top images are longest, in that order."""
    rows = neurons.sort_values(["layer", "norm_large"], ascending=[True, False], kind="stable")
    return rows.groupby("layer").head(STRONGEST)


def neuron_table(neurons: pd.DataFrame) -> Table:
    """How strong the strongest neurons are, and how far one direction holds what they write."""
    title = f"Second-order effects, the strongest {STRONGEST} neurons of every layer"
    columns = ["layer.neuron", "mean", "large from", "largest", "explained, top images", "all"]
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE)
    for row in strongest(neurons).to_dict("records"):
        lengths = (f"{row[n]:.4f}" for n in ("norm_mean", "norm_large", "norm_max"))
        # Over all images it is not known where covariances were too large to gather.
        shares = (
            "–" if np.isnan(row[n]) else f"{row[n]:.0%}" for n in ("explained_top", "explained")
        )
        table.add_row(f"{row['layer']}.{row['neuron']}", *lengths, *shares)
    return table


def code_table(store: Store, result: Result, top: int) -> Table:
    """The first texts of the strongest neurons, with signs; accuracies and truth where kept."""
    if result.config["classes"] is not None:
        console.print(accuracy_table(result.table("accuracy").to_pandas()))
    for layer, facts in result.provenance["truth"].items():
        show_table(f"layer {layer}", dict(facts))
    codes = result.table("codes").to_pandas()
    neurons = described(store, result).table("neurons")
    title = f"Sparse codes, the first {top} texts of the strongest neurons"
    table = Table("layer.neuron", "texts", title=title, title_justify="left", box=SIMPLE)
    coded = codes[["layer", "neuron"]].drop_duplicates()
    for row in strongest(neurons.to_pandas().merge(coded)).itertuples():
        of = (codes["layer"] == row.layer) & (codes["neuron"] == row.neuron) & (codes["rank"] < top)
        texts = codes[of].sort_values("rank")
        pairs = list(zip(texts["text"], texts["coefficient"], strict=True))
        table.add_row(f"{row.layer}.{row.neuron}", signed(pairs))
    return table


def show_neuron(config: ShowConfig) -> Table:
    """Draw one neuron and print its texts."""
    # Models take seconds to import, and tables do without them.
    from pipeline.pages.neuron_pictures import NeuronPictures
    from pipeline.texts.encoding import store_model

    if config.layer is None or config.neuron is None:
        raise FacetError("`facet show neuron …` needs --layer and --neuron")
    store = open_store(config.store)
    parse_mlp_layers(str(config.layer), store.meta.layers)
    if not 0 <= config.neuron < store.meta.mlp_width:
        raise FacetError(
            f"--neuron {config.neuron}: the layers of this model have neurons 0 to "
            f"{store.meta.mlp_width - 1}"
        )
    found = latest_effects(store, [config.layer])
    folder = found.url if config.out is None else urls.absolute(config.out)
    urls.check_writable(folder, "out")
    codes = codes_of(store, found, config.layer)
    pictures = NeuronPictures(
        store,
        store_model(store, config.pretrained),
        config.layer,
        found.table("top_images").to_pandas(),
        None if codes is None else codes.table("codes").to_pandas(),
    )
    place = urls.join(folder, f"neuron-{config.layer:02d}-{config.neuron:05d}.png")
    urls.put_bytes(place, png(pictures.figure(config.neuron)))
    title = f"MLP layer {config.layer}, neuron {config.neuron}"
    table = Table("coefficient", "text", title=title, title_justify="left", box=SIMPLE)
    for text, coefficient in pictures.texts(config.neuron, config.top):
        table.add_row(f"{coefficient:+.4f}", text)
    console.print(table)
    images = ", ".join(map(str, pictures.top(config.neuron)["image"]))
    facts = {"top images": images, "histogram over": pictures.norms(config.neuron)[1]}
    for image, why in pictures.unreadable.items():
        facts[f"image {image}"] = f"is not to be had as it was, drawn grey: {why}"
    say_older(store, found)
    if codes is None:
        first = command("omp", store=config.store, mlp_layers=config.layer, pool=ELIDED)
        facts["texts"] = f"none: run `{first}`"
    elif not table.row_count:
        facts["texts"] = "none: the neuron has no effect"
    show_table("done", facts)
    console.print(place)
    return table


def show_rosetta(url: str, out: str | None = None) -> Table:
    """Write the dictionary of shared concepts and print its list."""
    from pipeline.rosetta.page import make_dictionary  # imports models

    shown = make_dictionary(urls.absolute(url), None if out is None else urls.absolute(out))
    title = "Concepts that all models share"
    columns = ["concept", "hub's unit", "correlation", "in both halves"]
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE)
    for concept in shown.concepts:
        hub = concept.members[0]
        halves = "yes" if concept.replicates else "no"
        cells = [str(concept.number), f"{hub.layer} {hub.unit}", f"{concept.strength:.3f}", halves]
        table.add_row(*cells)
    console.print(table)
    show_table("done", shown.facts)
    console.print(shown.page)
    return table


def codes_of(store: Store, effects: Result, layer: int) -> Result | None:
    """The codes, asked for last, of a layer's directions in a second-order result."""
    for result in reversed(finished_results(store.url, "omp")):
        known = result.provenance
        if layer in known["mlp_layers"] and coded_name(result) == effects.name:
            return result
    return None


def coded_name(codes: Result) -> str:
    """Name of the second-order result whose directions were coded."""
    # By its last part: a store may have moved since.
    return codes.provenance["second_order"].rstrip("/").rpartition("/")[2]


def described(store: Store, codes: Result) -> Result:
    """The second-order result whose directions were coded."""
    for result in finished_results(store.url, "second_order"):
        if result.name == coded_name(codes):
            return result
    raise StoreError(
        f"the second-order effects that {codes.url} describes are gone "
        f"({codes.provenance['second_order']}): run `facet omp` again"
    )


TABLES: dict[str, Callable[[Store, Result, int], Table]] = {
    "textspan": lambda store, result, top: head_table(
        result.table("descriptions").to_pandas(), top
    ),
    "ablate": lambda store, result, top: accuracy_table(result.table("accuracy").to_pandas()),
    "second-order": lambda store, result, top: neuron_table(result.table("neurons").to_pandas()),
    "omp": code_table,
}


if __name__ == "__main__":
    run_job(main, tyro.cli(ShowConfig, description=__doc__))
