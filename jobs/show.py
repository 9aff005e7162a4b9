"""Print what a job found last; draw a neuron, or the concepts that models share.

    facet show textspan --store out/
    facet show neuron --store out/ --layer 9 --neuron 4
    facet show neuron --store out/ --layer 9 --neuron 4 --format json | jq .found.texts
    facet show ablate --store out/ --format csv > accuracy.csv
    facet show segment --store out/
    facet show rosetta --store shared/
    facet show results --store out/

What was found before is read, not found again. JSON is all of the answer; CSV and Parquet are its
one flat table: of a neuron its texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.console import run_job
from jobs.settings import refuse_bounds, refuse_unused
from pipeline.neurons.choices import refuse_no_paths
from storage import views
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.show import Answer
    from storage.metadata import Metadata


@dataclass(frozen=True)
class ShowConfig:
    """Print what a job found last; draw a neuron, or the concepts that models share."""

    what: tyro.conf.Positional[
        Literal[
            "textspan",
            "label",
            "ablate",
            "compare",
            "align",
            "second-order",
            "omp",
            "segment",
            "sources",
            "neuron",
            "heatmap",
            "concepts",
            "adversarial",
            "repair",
            "search",
            "rosetta",
            "invert",
            "results",
        ]
    ]
    """Which job's results, one neuron on a page, the list of all results, or sources: how much
    heads wrote from registers, from the class token and from patches."""
    store: str
    """The store: a local path or an object-store URL. For rosetta and invert: where
    these jobs wrote."""
    top: int = 5
    """Texts to print for each head, neuron or picture."""
    layer: int | None = None
    """For neuron: its MLP layer."""
    neuron: int | None = None
    """For neuron: its number in the layer."""
    out: str | None = None
    """For neuron: the folder for its page; by default that of the second-order result. For
    rosetta: the folder for dictionary.html; by default that of its result. With --format parquet:
    the file."""
    pretrained: str | None = None
    """For neuron: the weights file of the store, if it is no longer where it was."""
    format: Literal["table", "csv", "json", "parquet"] = "table"
    """A table for people and pages, or, for machines, what is found and no pages: CSV or
    JSON to standard output, Parquet to the file --out."""


def main(config: ShowConfig) -> Answer:
    """Find the latest result; print it, for people or for machines."""
    check(config)
    from jobs.recipes.show import run

    return run(config)


def check(config: ShowConfig) -> None:
    """Refuse settings that mean nothing here."""
    refuse_bounds(config, top=1)
    if config.format in ("csv", "json"):
        refuse_unused(config, ["out"], "pages, which are not written, and to --format parquet")
    if config.format == "parquet" and (config.out is None or Path(config.out).is_dir()):
        raise FacetError("--format parquet needs --out FILE: a terminal shows no binary")
    if config.what == "neuron":
        if config.layer is None or config.neuron is None:
            raise FacetError("`facet show neuron …` needs --layer and --neuron")
        refuse_neuron(views.find(config.store)[1], config.layer, config.neuron)
        return
    refuse_unused(config, ["layer", "neuron", "pretrained"], "`facet show neuron …`")
    if config.what not in ("textspan", "omp", "compare", "align", "concepts"):
        known = "`facet show textspan …`, omp, compare, align, neuron and concepts"
        refuse_unused(config, ["top"], known)
    if config.what != "rosetta" and config.format != "parquet":
        refuse_unused(config, ["out"], "`facet show neuron …`, rosetta and --format parquet")
    if config.what not in ("rosetta", "invert", "results"):
        _, meta = views.find(config.store)
        if config.what == "sources" and "sources" not in meta.components:
            raise FacetError(
                f"`facet show sources …`: the store at {config.store} keeps no sources: extract "
                "with `components` heads mlps sources, from a model that has registers"
            )


def refuse_neuron(meta: Metadata, layer: int, neuron: int) -> None:
    """Refuse a neuron that the model does not have."""
    refuse_no_paths(meta)
    if not 0 <= layer < meta.second_order_layers:
        raise FacetError(
            f"--layer {layer}: neurons of MLP layers 0 to {meta.second_order_layers - 1} have "
            "second-order effects"
        )
    if not 0 <= neuron < meta.neurons:
        raise FacetError(f"--neuron {neuron}: MLP layer {layer} has neurons 0-{meta.neurons - 1}")


if __name__ == "__main__":
    run_job(main, tyro.cli(ShowConfig, description=__doc__))
