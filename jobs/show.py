"""Print what a job found last; draw a neuron, or the concepts that models share.

    facet show textspan --store out/
    facet show neuron --store out/ --layer 9 --neuron 4
    facet show neuron --store out/ --layer 9 --neuron 4 --json | jq .found.texts
    facet show rosetta --store shared/

What was found before is read, not found again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.console import run_job
from jobs.settings import refuse_bounds, refuse_unused
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.show import Answer


@dataclass(frozen=True)
class ShowConfig:
    """Print what a job found last; draw a neuron, or the concepts that models share."""

    what: tyro.conf.Positional[
        Literal["textspan", "ablate", "second-order", "omp", "neuron", "rosetta", "invert"]
    ]
    """Which job's results, or one neuron on a page."""
    store: str
    """The store: a local path or an object-store URL. For rosetta and invert: where
    these jobs wrote."""
    top: int = 5
    """Texts to print for each head or neuron."""
    layer: int | None = None
    """For neuron: its MLP layer."""
    neuron: int | None = None
    """For neuron: its number in the layer."""
    out: str | None = None
    """For neuron: the folder for its page; by default that of the second-order result. For
    rosetta: the folder for dictionary.html; by default that of its result."""
    pretrained: str | None = None
    """For neuron: the weights file of the store, if it is no longer where it was."""
    json: bool = False
    """Print JSON, for machines, and draw nothing."""


def main(config: ShowConfig) -> Answer:
    """Find the latest result; print it, as tables or as JSON."""
    check(config)
    from jobs.recipes.show import run

    return run(config)


def check(config: ShowConfig) -> None:
    """Refuse settings that mean nothing here."""
    refuse_bounds(config, top=1)
    if config.json:
        refuse_unused(config, ["out"], "pages, which are not written with --json")
    if config.what == "neuron":
        if config.layer is None or config.neuron is None:
            raise FacetError("`facet show neuron …` needs --layer and --neuron")
        return
    refuse_unused(config, ["layer", "neuron", "pretrained"], "`facet show neuron …`")
    if config.what in ("rosetta", "invert", "ablate", "second-order"):
        refuse_unused(config, ["top"], "`facet show textspan …`, omp and neuron")
    if config.what != "rosetta":
        refuse_unused(config, ["out"], "`facet show neuron …` and rosetta")


if __name__ == "__main__":
    run_job(main, tyro.cli(ShowConfig, description=__doc__))
