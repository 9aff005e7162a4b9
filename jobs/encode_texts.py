"""Embed a pool of candidate texts with the model that a store was made with.

    facet encode-texts --store out/ --pool general

Jobs that need a pool do it themselves; texts that are embedded already are not embedded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.checks import at_place
from jobs.console import run_job, say_loading
from pipeline.texts import Pool, load_pool
from pipeline.texts.towers import refuse_store_without_texts
from storage import views

if TYPE_CHECKING:
    from pipeline.texts.encoding import Encoded
    from storage.metadata import Metadata


@dataclass(frozen=True)
class EncodeTextsConfig:
    """Embed a pool of candidate texts with the model that a store was made with."""

    store: str
    """The store: a local path or an object-store URL."""
    pool: str
    """A text file (one a line), a Parquet file, or general, imagenet-classes, common-words:N,
    microworld."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""


def main(config: EncodeTextsConfig) -> Encoded:
    """Check what can be told at once, then embed."""
    pool = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.encode_texts import run

    return run(config, pool)


def check(config: EncodeTextsConfig, planned: Metadata | None = None) -> Pool:
    """Refuse what cannot work before a model is loaded; returns the texts."""
    pool = load_pool(config.pool)
    refuse_store_without_texts(config.store, planned or views.find(config.store)[1])
    return pool


if __name__ == "__main__":
    run_job(main, tyro.cli(EncodeTextsConfig, description=__doc__))
