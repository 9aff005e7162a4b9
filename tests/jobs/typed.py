"""Commands as they are typed, each in a process of its own that starts in milliseconds.

A server that has imported what every command imports anyway makes the processes: nothing that
takes seconds is in it, so that a command which needs no such library can be seen to load none.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

HEAVY = ("torch", "ray", "xarray", "zarr", "dask", "open_clip", "timm", "torchvision")
NOBODY = 65534


@dataclass(frozen=True)
class Typed:
    """What came of a command: exit status, what it said, and libraries of ``HEAVY`` it loaded."""

    status: int
    out: str
    err: str
    loaded: tuple[str, ...]


def run(
    *words: str,
    folder: str,
    environment: Mapping[str, str | None] | None = None,
    nobody: bool = False,
) -> Typed:
    """Type ``facet WORDS …`` in a folder.

    Parameters
    ----------
    environment : mapping of str to str or None, optional
        Variables that are set, or are not.
    nobody : bool
        As a user whom modes of files bind, which they do not for root.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jobs.cli", "jobs.console", "tyro"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_typed, args=(theirs, words, folder, dict(environment or {}), nobody)
    )
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def _typed(
    answer: Connection,
    words: tuple[str, ...],
    folder: str,
    environment: dict[str, str | None],
    nobody: bool,
) -> None:
    os.chdir(folder)
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if nobody and os.getuid() == 0:
        from jobs import console

        run_job = console.run_job
        # Modules that are still to be imported may lie where root alone reads.
        console.run_job = lambda *given: (os.setuid(NOBODY), run_job(*given))  # type: ignore
    sys.argv = ["facet", *words]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            from jobs import cli

            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
    loaded = tuple(name for name in HEAVY if name in sys.modules)
    answer.send(Typed(status, out.getvalue(), err.getvalue(), loaded))
