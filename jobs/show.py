"""Print what a job found last.

facet show textspan --store out/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd
import tyro
from rich.box import SIMPLE
from rich.table import Table

from jobs.console import console, run_job
from pipeline.findings import top_texts
from storage import open_store
from storage.errors import FacetError
from storage.results import latest_result


@dataclass(frozen=True)
class ShowConfig:
    """Print what a job found last."""

    what: tyro.conf.Positional[Literal["textspan", "ablate"]]
    """Which job's results."""
    store: str
    """The store: a local path or an object-store URL."""
    top: int = 5
    """Texts to print for each head."""


def main(config: ShowConfig) -> Table:
    """Find the latest result and print its table."""
    if config.top < 1:
        raise FacetError(f"--top {config.top}: must be at least 1")
    store = open_store(config.store)
    result = latest_result(store.url, config.what)
    if config.what == "textspan":
        table = head_table(result.table("descriptions").to_pandas(), config.top)
    else:
        table = accuracy_table(result.table("accuracy").to_pandas())
    console.print(table)
    console.print(result.url)
    return table


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


if __name__ == "__main__":
    run_job(main, tyro.cli(ShowConfig, description=__doc__))
