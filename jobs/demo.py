"""The main job on the embedded world, and a page that shows what was found: ``make demo``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs import extract
from jobs.console import console, run_job
from pipeline.report import extraction_sections, write_page
from pipeline.shares import shares
from storage.store import Store


@dataclass(frozen=True)
class DemoConfig:
    """From pictures to a page, on the embedded world."""

    out: Path = Path("demo")
    """Where the store and index.html go."""
    images: str = "microworld:n=2000,seed=7,split=test"
    """The pictures."""


def main(config: DemoConfig) -> None:
    """Run every job in order and write the page."""
    started = time.monotonic()
    store = extract.main(
        extract.ExtractConfig(
            images=config.images,
            model="microworld",
            pretrained="microworld",
            store=str(config.out / "store"),
            shard_size=500,
        )
    )
    page = config.out / "index.html"
    write_page(
        page,
        "Facet: what was found",
        f"{store.meta.architecture} taken apart over {store.meta.source}.",
        sections(store),
    )
    console.print(f"{page.absolute()} shows what was found ({time.monotonic() - started:.0f} s)")


def sections(store: Store) -> list[str]:
    """The page's sections, one job after the other."""
    return extraction_sections(store, shares(store))


if __name__ == "__main__":
    run_job(main, tyro.cli(DemoConfig, description=__doc__))
