"""What a job shows on the terminal: its plan, its progress, its summary, its errors."""

from __future__ import annotations

import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pipeline import logs
from storage.errors import FacetError
from storage.objects import refuse_credentials

# Paths and conditions hold brackets and colons that mean nothing here.
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
Config = TypeVar("Config")
SECONDS_BETWEEN_LINES = 10.0


def show_next(command: str) -> None:
    """What to type next."""
    console.print(f"next: {command}")


def show_table(title: str, rows: Mapping[str, object]) -> None:
    """Two columns, one fact a line."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left; where the output is a file, a line now and then.

    Yields
    ------
    callable
        Takes the number done so far.
    """
    started = time.monotonic()
    if not console.is_terminal:
        last, said = started, -1

        def line(done: int) -> None:
            nonlocal last, said
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES or (done >= total and said < total):
                last, said = now, done
                rate = done / (now - started)
                left = f"{(total - done) / rate:.0f} s left" if rate else "starting"
                print(f"{what}: {done} of {total} ({rate:.1f}/s, {left})", flush=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, rate=0.0)

        def move(done: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, rate=rate)

        yield move


def say_found(url: str) -> None:
    """Say, to people and in the log, that there was nothing to do: what was asked for is there."""
    console.print("all is done: this very run was finished before")
    logs.event("found", result=url)


def run_job(main: Callable[[Config], object], config: Config) -> None:
    """Run a job; a user's mistake ends it with its message and exit status 2, no traceback."""
    logs.start(Path(inspect.getfile(main)).stem)  # as in ``facet`` and in the store's results
    try:
        for value in vars(config).values():
            if isinstance(value, str):
                refuse_credentials(value)  # the configuration is printed, and kept with results
        logs.event("started", config=vars(config))
        main(config)
    except BaseException as error:
        reason = str(error) if isinstance(error, FacetError) else repr(error)
        logs.event("failed", level=logging.ERROR, error=reason)
        if isinstance(error, FacetError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        if isinstance(error, KeyboardInterrupt):
            print("stopped; finished shards are kept, the same command goes on", file=sys.stderr)
            raise SystemExit(130) from None
        raise
    logs.event("finished")
