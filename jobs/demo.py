"""From pictures to a page that shows what was found, on the embedded world: ``make demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.console import run_job


@dataclass(frozen=True)
class DemoConfig:
    """From pictures to a page, on the embedded world."""

    out: Path = Path("demo")
    """Where the store and index.html go."""
    images: str = "microworld:n=2000,seed=7,split=test"
    """The pictures."""


def main(config: DemoConfig) -> None:
    """Run every job in order and write the page."""
    from jobs.recipes.demo import run

    run(config)


if __name__ == "__main__":
    run_job(main, tyro.cli(DemoConfig, description=__doc__))
