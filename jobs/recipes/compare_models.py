"""The recipe of ``facet compare-models``: scores of stores' labels, side by side."""

from __future__ import annotations

from jobs.compare_models import CompareModelsConfig
from jobs.console import console
from pipeline.labels.answers import ModelScores, compared, differing
from pipeline.pages import tables
from pipeline.pages.plain import to_json
from storage import open_store


def run(config: CompareModelsConfig) -> list[ModelScores]:
    """Read the scores and print them."""
    found = compared([open_store(store) for store in config.stores])
    if config.format == "json":
        print(to_json(found))
        return found
    console.print(tables.entanglements(found))
    console.print(tables.associations(found))
    if names := differing(found):
        console.print(
            f"NOTE: these labels differ in {', '.join(names)}: scores of one kind are of models "
            "only where all of that is the same"
        )
    return found
