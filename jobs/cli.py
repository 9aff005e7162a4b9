"""The ``facet`` command: every job as a sub-command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import tyro

from jobs import ablate, encode_texts, extract, reduce, show, textspan
from jobs.console import run_job

sub = tyro.conf.subcommand
Command = (
    Annotated[extract.ExtractConfig, sub("extract")]
    | Annotated[reduce.ReduceConfig, sub("reduce")]
    | Annotated[encode_texts.EncodeTextsConfig, sub("encode-texts")]
    | Annotated[textspan.TextSpanConfig, sub("textspan")]
    | Annotated[ablate.AblateConfig, sub("ablate")]
    | Annotated[show.ShowConfig, sub("show")]
)
MAIN: dict[type, Callable[[Any], object]] = {
    extract.ExtractConfig: extract.main,
    reduce.ReduceConfig: reduce.main,
    encode_texts.EncodeTextsConfig: encode_texts.main,
    textspan.TextSpanConfig: textspan.main,
    ablate.AblateConfig: ablate.main,
    show.ShowConfig: show.main,
}


def main() -> None:
    """Entry point of ``facet``."""
    config = tyro.cli(Command, prog="facet", config=(tyro.conf.OmitSubcommandPrefixes,))
    run_job(MAIN[type(config)], config)


if __name__ == "__main__":
    main()
