"""The ``facet`` command: every job as a sub-command."""

from __future__ import annotations

from typing import Annotated

import tyro

from jobs import extract
from jobs.console import run_job

Command = Annotated[extract.ExtractConfig, tyro.conf.subcommand("extract")]
MAIN = {extract.ExtractConfig: extract.main}


def main() -> None:
    """Entry point of ``facet``."""
    config = tyro.cli(Command, prog="facet", config=(tyro.conf.OmitSubcommandPrefixes,))
    run_job(MAIN[type(config)], config)


if __name__ == "__main__":
    main()
