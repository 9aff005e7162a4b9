"""Embed a pool of candidate texts with the model that a store was made with.

    facet encode-texts --store out/ --pool general

Jobs that need a pool do it themselves; texts that are embedded already are not embedded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.console import run_job, say_loading
from pipeline.texts import load_pool
from storage import views

if TYPE_CHECKING:
    from pipeline.texts.encoding import Encoded


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


def main(config: EncodeTextsConfig) -> Encoded:
    """Check what can be told at once, then embed."""
    pool = load_pool(config.pool)
    views.find(config.store)
    say_loading()
    from jobs.recipes.encode_texts import run

    return run(config, pool)


if __name__ == "__main__":
    run_job(main, tyro.cli(EncodeTextsConfig, description=__doc__))
