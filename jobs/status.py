"""What is done, running and failed, told from the store alone.

    facet status --store out/
    facet status --store s3://bucket/laion --format json | jq .extraction.images_per_second

It asks no cluster and changes nothing, so it may be run from anywhere, at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.console import run_job
from storage import urls, views
from storage.layout import RESULTS, SETUP

if TYPE_CHECKING:
    from pipeline.status import Status


@dataclass(frozen=True)
class StatusConfig:
    """What is done, running and failed, told from the store alone."""

    store: str
    """The store: a local path or an object-store URL."""
    format: Literal["table", "json"] = "table"
    """Tables for people, or JSON, for machines."""


def main(config: StatusConfig) -> Status:
    """Read the ledgers and print what they say."""
    names = urls.list_names(urls.absolute(config.store))
    if not {SETUP, RESULTS} & {*names}:  # shared units and inversions are told of, too
        views.find(config.store)
    from jobs.recipes.status import run

    return run(config)


if __name__ == "__main__":
    run_job(main, tyro.cli(StatusConfig, description=__doc__))
