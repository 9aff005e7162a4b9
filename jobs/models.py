"""Models by name: which are supported, what a store of each would take, and why others are not.

    facet models
    facet models dinov2
    facet models 'timm:vit_*_siglip*'
    facet models ViT-B-16-SigLIP2
    facet models --format csv > models.csv

A word finds all names and families that hold it; a whole name shows that model in full. No weights
are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.console import run_job
from jobs.settings import refuse_unused
from storage.errors import FacetError

if TYPE_CHECKING:
    from pipeline.models.catalogue import Entry


@dataclass(frozen=True)
class ModelsConfig:
    """Models by name: which are supported, what a store takes, and why others are not."""

    word: tyro.conf.Positional[str] = ""
    """What a name or a family holds, * and ? allowed; a whole name shows that model in full. All
    where it is left out."""
    format: Literal["table", "csv", "json", "parquet"] = "table"
    """A table for people, or, for machines, a row a name: CSV or JSON to standard output, Parquet
    to the file --out."""
    out: str | None = None
    """With --format parquet: the file."""


def main(config: ModelsConfig) -> list[Entry]:
    """Find names and print what is known of them."""
    check(config)
    from jobs.recipes.models import run

    return run(config)


def check(config: ModelsConfig) -> None:
    """Refuse settings that mean nothing here."""
    if config.format != "parquet":
        refuse_unused(config, ["out"], "--format parquet")
    elif config.out is None or Path(config.out).is_dir():
        raise FacetError("--format parquet needs --out FILE: a terminal shows no binary")


if __name__ == "__main__":
    run_job(main, tyro.cli(ModelsConfig, description=__doc__))
