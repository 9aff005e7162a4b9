"""Models side by side: how clearly their heads say what they are about.

    facet compare-models b32/ b16/ l14/

Prints the two tables of "Quantifying and Enabling the Interpretability of CLIP-like Models" (2024)
from the labels that were asked for last in every store, and what needs no judge beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.console import run_job
from storage import views
from storage.errors import FacetError

if TYPE_CHECKING:
    from pipeline.labels.answers import ModelScores


@dataclass(frozen=True)
class CompareModelsConfig:
    """Models side by side: how clearly their heads say what they are about."""

    stores: tyro.conf.Positional[tuple[str, ...]]
    """Stores with labels: local paths or object-store URLs."""
    format: Literal["table", "json"] = "table"
    """Tables for people, or JSON, for machines."""


def main(config: CompareModelsConfig) -> list[ModelScores]:
    """Read the scores and print them."""
    if not config.stores:
        raise FacetError("name at least one store that has labels")
    for store in config.stores:
        views.find(store)
    from jobs.recipes.compare_models import run

    return run(config)


if __name__ == "__main__":
    run_job(main, tyro.cli(CompareModelsConfig, description=__doc__))
