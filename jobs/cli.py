"""The ``facet`` command: every job as a sub-command.

Only the job that is asked for is imported: the others' libraries take seconds to load.
"""

from __future__ import annotations

import difflib
import sys
import typing
from importlib import import_module
from types import ModuleType
from typing import Any

import tyro

# A job's module is its name with underscores.
JOBS = {
    "extract": "take a model apart over a set of images and keep the parts in a store",
    "reduce": "means, covariances and principal components of a store",
    "encode-texts": "embed a pool of candidate texts",
    "textspan": "describe attention heads by texts",
    "ablate": "accuracy when parts are replaced by their means",
    "second-order": "what neurons write through later attention heads",
    "omp": "sparse text codes of neurons",
    "rosetta": "units that different models share",
    "invert": "latents whose pictures are given ones, led by shared units",
    "plan": "what a store of any size will take, before any of it is made",
    "status": "what of a store is done, running and failed",
    "run": "the jobs of a run file, in order",
    "show": "print what a job found last; draw a neuron",
}


def job_module(name: str) -> ModuleType:
    return import_module(f"jobs.{name.replace('-', '_')}")


def config_of(name: str) -> type[Any]:
    """What a job's ``main`` takes."""
    config: type[Any] = typing.get_type_hints(job_module(name).main)["config"]
    return config


def main() -> None:
    """Entry point of ``facet``."""
    name, arguments = next(iter(sys.argv[1:]), ""), sys.argv[2:]
    if name not in JOBS:
        lines = "\n".join(f"  {job:13} {about}" for job, about in JOBS.items())
        usage = f"usage: facet JOB …\n\n{lines}\n\n`facet JOB --help` lists a job's settings."
        if name in ("", "-h", "--help"):
            print(usage)
            raise SystemExit(0 if name else 2)
        near = difflib.get_close_matches(name, JOBS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"error: there is no job {name!r}.{hint}\n\n{usage}", file=sys.stderr)
        raise SystemExit(2)
    try:
        from jobs.console import run_job

        module = job_module(name)
        config = tyro.cli(
            config_of(name), prog=f"facet {name}", description=module.__doc__, args=arguments
        )
    except KeyboardInterrupt:  # importing a job takes seconds
        print("stopped before the job began", file=sys.stderr)
        raise SystemExit(130) from None
    run_job(module.main, config)


if __name__ == "__main__":
    main()
