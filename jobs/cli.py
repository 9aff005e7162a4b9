"""The ``facet`` command: every job as a sub-command.

Only the job that is asked for is imported: the others' libraries take seconds to load.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

import tyro


@dataclass(frozen=True)
class Job:
    """A sub-command; its module in ``jobs/`` is its name with underscores.

    Attributes
    ----------
    about : str
        A line of the list of jobs.
    reads : tuple of str or None
        Jobs whose work it reads: in a run file, a stage waits for the stages of these. None where
        it is no stage. A job that reads none is given the run's images and model.
    """

    about: str
    reads: tuple[str, ...] | None = None


JOBS = {
    "extract": Job("take a model apart over a set of images and keep the parts in a store", ()),
    "reduce": Job("means, covariances and principal components of a store", ("extract",)),
    "index": Job("contributions head by head, made for search", ("extract",)),
    "encode-texts": Job("embed a pool of candidate texts", ("extract",)),
    "textspan": Job("describe attention heads by texts", ("extract", "reduce", "encode-texts")),
    "label": Job(
        "what attention heads are about, with evidence", ("extract", "reduce", "encode-texts")
    ),
    "ablate": Job(
        "accuracy when parts are replaced by their means",
        ("extract", "reduce", "encode-texts", "second-order"),
    ),
    "compare": Job("two sets of images in words", ("extract", "reduce", "encode-texts")),
    "second-order": Job("what neurons write through later attention heads", ("extract",)),
    "omp": Job("sparse text codes of neurons", ("extract", "encode-texts", "second-order")),
    "concepts": Job(
        "what is in pictures, in words, by neurons, heads or the embedding",
        ("extract", "reduce", "encode-texts", "second-order", "omp"),
    ),
    "search": Job("which images are most alike in what heads write"),
    "heatmap": Job("where in a picture texts come from"),
    "segment": Job(
        "heat maps of many methods, held to masks", ("extract", "encode-texts", "second-order")
    ),
    "adversarial": Job("pictures that a model takes for another class, by what neurons confuse"),
    "repair": Job(
        "mend a spurious correlation by heads or by gains that are found, held out",
        ("extract", "reduce", "encode-texts", "label"),
    ),
    "align": Job("two models over the same images: heads that are alike, texts for the other"),
    "rosetta": Job("units that different models share", ()),
    "invert": Job("latents whose pictures are given ones, led by shared units"),
    "compare-models": Job("models side by side: scores of their heads' labels"),
    "models": Job("models by name: what is supported, and why others are not"),
    "plan": Job("what a store of any size will take, before any of it is made"),
    "status": Job("what of a store is done, running and failed"),
    "run": Job("the jobs of a run file, in order"),
    "report": Job("a page that shows what a store's results have found"),
    "explore": Job("stores and what was found of them, in a browser"),
    "show": Job("print what a job found last; draw a neuron"),
}


def stages() -> dict[str, tuple[str, ...]]:
    """Jobs that may be stages of a run file, and whose work each reads."""
    return {name: job.reads for name, job in JOBS.items() if job.reads is not None}


def job_module(name: str) -> ModuleType:
    return import_module(f"jobs.{name.replace('-', '_')}")


def config_of(name: str) -> type[Any]:
    """What a job's ``main`` takes."""
    module = job_module(name)
    config: type[Any] = getattr(module, module.main.__annotations__["config"])
    return config


def main() -> None:
    """Entry point of ``facet``."""
    name, arguments = next(iter(sys.argv[1:]), ""), sys.argv[2:]
    if name == "--version":
        print(f"facet {version('facet-interp')}")
        return
    if name not in JOBS:
        lines = "\n".join(f"  {name:13} {job.about}" for name, job in JOBS.items())
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
