"""What every job does around its work: find a finished result, keep a new one, sum up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import pandas as pd
import pyarrow as pa
import xarray as xr

from jobs.console import say_found, show_next, show_table
from pipeline.cluster import machines
from pipeline.cluster.work import Workers
from pipeline.identity import found_before
from pipeline.provenance import revision, versions
from storage.results import Result, as_table, save_result

# Settings that say where things are kept.
PLACES = ("store", "from_", "to", "out")


def actors(config: Any) -> int | None:
    """Copies of the model that were asked for; None: ours to choose."""
    return None if config.num_actors == "auto" else config.num_actors


def of_workers(workers: Workers) -> str:
    """What does the work, for a plan."""
    return (
        f"{workers.actors} × {workers.device}, {workers.threads} threads, batches of "
        f"{workers.batch_size}"
    )


def found_or_made(
    url: str, job: str, identity: dict[str, Any], make: Callable[[], Result]
) -> Result:
    """The finished result that has this identity, if there is one, or the one that is made now."""
    result = found_before(url, job, identity)
    if result is None:
        return make()
    say_found(result.url)
    return result


def save(
    url: str,
    job: str,
    config: Any,
    facts: Mapping[str, Any],
    *,
    identity: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    schemas: Mapping[str, pa.Schema] | None = None,
    arrays: Mapping[str, xr.Dataset] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Result:
    """Keep what a run found; its provenance is what it learnt of itself, and by which code.

    Parameters
    ----------
    url, job : str
    config : dataclass instance
        The run's configuration.
    facts : mapping
        Kept as provenance, beside where the work was done, versions and revision.
    identity : mapping, optional
        All that decided what was found; by default the configuration.
    tables, arrays, files : mapping, optional
        What was found: see ``storage.results.save_result``.
    schemas : mapping, optional
        The columns that are kept of each table.
    """
    where = "here" if machines.here() else "ray"
    return save_result(
        url,
        job,
        asdict(config),
        {
            **facts,
            "differs": differs(config),
            "workers": where,
            "versions": versions(),
            "revision": revision(),
        },
        identity=identity,
        tables={
            name: as_table(table, (schemas or {})[name]) for name, table in (tables or {}).items()
        },
        arrays=arrays,
        files=files,
    )


def differs(config: Any) -> dict[str, Any]:
    """Settings other than the job's defaults, JSON-able; places are left out."""
    given = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in PLACES}
    plain = {f.name: f.default for f in fields(config)}
    return json.loads(json.dumps({n: v for n, v in given.items() if v != plain[n]}))


def show_done(facts: Mapping[str, object], seconds: float, result: Result, following: str) -> None:
    """The closing table: what was found, how long it took, where it is, and what to type next."""
    show_table("done", {**facts, "this run": f"{seconds:.0f} s", "kept in": result.url})
    show_next(following)
