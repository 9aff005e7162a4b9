"""What a job shows on the terminal: its plan, its progress, its summary, its errors."""

from __future__ import annotations

import errno
import inspect
import logging
import math
import os
import re
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

from jobs.settings import ELIDED, command, flag
from pipeline.cluster import logs
from pipeline.models.errors import UnknownModel, UnsupportedModel
from pipeline.telling import Teller
from storage.errors import FacetError
from storage.objects import refuse_credentials

# Paths and conditions hold brackets and colons that mean nothing here. A log has no width that its
# tables would have to fit.
console = Console(
    highlight=False,
    soft_wrap=True,
    markup=False,
    emoji=False,
    width=None if sys.stdout.isatty() else 160,
)
Config = TypeVar("Config")
SECONDS_BETWEEN_LINES = 10.0
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def show_next(command: str) -> None:
    """What to type next."""
    console.print(f"next: {command}")


def show_table(title: str, rows: Mapping[str, object]) -> None:
    """Two columns, one fact a line."""
    console.print(title, style="italic")
    width = max(map(len, rows), default=0)
    for name, value in rows.items():  # unbroken, however long: commands and places are copied
        console.print(f"  {name:{width}}    {value}")


@contextmanager
def progress_bar(
    what: str, total: int, kept: str = "nothing of that is kept"
) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left; where the output is a file, a line now and then.

    Parameters
    ----------
    what : str
    total : int
    kept : str
        What is left of the work if it is stopped half way: `run_job` says it.

    Yields
    ------
    callable
        Takes the number done so far.
    """
    try:
        yield from _bar(what, total)
    except KeyboardInterrupt as stop:
        stop.add_note(f"during {what}: {kept}")
        raise


def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
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


def say(line: str) -> None:
    """A line of work that is under way."""
    console.print(as_flags(line))


TELLER = Teller(say, progress_bar, console.status)


def say_loading() -> None:
    """What a job does first, once it is known that it can work: seconds of imports."""
    console.print("loading libraries")


def say_found(url: str) -> None:
    """Say, to people and in the log, that there was nothing to do: what was asked for is there."""
    console.print("all is done: this very run was finished before")
    logs.event("found", result=url)


# Works whose command is whole with the settings that an error gives; others need some more.
WHOLE = ("second_order", "reduce", "label", "index")


def told(error: FacetError) -> str:
    """An error as the command line has it: settings as flags, and the command that would help."""
    text = as_flags(str(error))
    if isinstance(error, UnknownModel | UnsupportedModel):
        return f"{text}: `facet models` lists them, `facet models WORD` those like a word"
    if (work := error.remedy) is None:
        return text
    place = {"rosetta": "out", "invert": "out", "align": "to"}.get(work.name, "store")
    line = command(work.name.replace("_", "-"), **{place: work.url}, **work.settings)
    whole = line if work.name in WHOLE else f"{line} {ELIDED}"
    return f"{text}: run `{whole}` {'again' if work.again else 'first'}"


def as_flags(text: str) -> str:
    """What is said, with the settings between backticks as the flags that give them."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda name: flag(name[1]), text)


def run_job(main: Callable[[Config], object], config: Config) -> None:
    """Run a job; a user's mistake ends it with its message and exit status 2, no traceback."""
    logs.start(Path(inspect.getfile(main)).stem)  # as in ``facet`` and in the store's results
    # Torch's threads sleep while they wait for each other: where a machine does other things, too,
    # they would spend as much time on waiting as on work. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        for name, value in vars(config).items():
            if isinstance(value, str):
                refuse_credentials(value)  # the configuration is printed, and kept with results
            if isinstance(value, float) and not math.isfinite(value):
                raise FacetError(f"`{name}` {value}: must be a finite number")
        logs.event("started", config=vars(config))
        found = main(config)
    except BaseException as error:
        message = told(error) if isinstance(error, FacetError) else of_the_system(error)
        logs.event("failed", level=logging.ERROR, error=message or repr(error))
        if message is not None:
            print(f"error: {message}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        if isinstance(error, KeyboardInterrupt):
            print(stopped(error), file=sys.stderr)
            raise SystemExit(130) from None
        raise
    result = getattr(
        found, "result", None
    )  # of jobs that keep one, or its place, of one that shows
    logs.event("finished", **({} if result is None else {"result": getattr(result, "url", result)}))


def of_the_system(error: BaseException) -> str | None:
    """A disk or a network that fails, also under a worker, in a line; None for other errors."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner  # Ray's errors keep the worker's, and in their own words its trace
    if not isinstance(error, OSError):
        return None
    place = "" if error.filename is None else f"{error.filename}: "
    what = f"{place}{error.strerror or str(error) or type(error).__name__}"
    if error.errno not in CANNOT_WRITE:
        return what
    return (
        f"{what}. Finished shards and results are kept: make room or mend the place, then run the "
        "same command again."
    )


def stopped(stop: KeyboardInterrupt) -> str:
    """What is left of a run that the user stopped."""
    during = next(iter(getattr(stop, "__notes__", [])), None)
    return (
        "stopped; what was written is kept, the same command goes on"
        if during is None
        else f"stopped {during}; the same command goes on from what is there"
    )
