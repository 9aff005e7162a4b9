"""Where a job's results go: ``results/<job>/<digest of all that decides them>/``."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from . import urls
from .arrays import open_dataset, refuse_not_finite, write_dataset
from .errors import Remedy, StoreError
from .layout import RESULTS
from .records import config_digest

# Of a table's column: a figure that may be unknown (null, or NaN when read as floats). No other
# may, and none infinite.
_UNKNOWN = {b"unknown": b"allowed"}


def may_be_unknown(name: str) -> pa.Field:
    """A column of figures, some of which may be unknown."""
    return pa.field(name, pa.float64(), metadata=_UNKNOWN)


def unknown_allowed(field: pa.Field) -> bool:
    """Whether a column's figures may be unknown."""
    return _UNKNOWN.items() <= (field.metadata or {}).items()


def as_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """A table with the columns that a result keeps of it."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.select(schema.names).cast(schema)


# The list of results that people and tables' readers find beside them: made from the results
# themselves, which remain the truth, and anew whenever one is added.
INDEX = "index.parquet"
INDEX_COLUMNS = pa.schema(
    [
        ("job", pa.string()),
        ("finished", pa.string()),
        ("asked", pa.string()),
        ("images", pa.int64()),
        ("settings", pa.string()),
        ("address", pa.string()),
    ]
)
# What jobs call the images that they counted.
_IMAGES = ("images", "classified", "pictures")


@dataclass(frozen=True)
class Result:
    """One finished run of a job.

    Attributes
    ----------
    url, job : str
    config, provenance : dict
        As they were saved.
    """

    url: str
    job: str
    config: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def name(self) -> str:
        """The digest of all that decided it: by this name other results' identities know it."""
        return self.url.rstrip("/").rpartition("/")[2]

    def table(self, name: str) -> pa.Table:
        """One of its tables."""
        raw = urls.read_bytes(urls.join(self.url, f"{name}.parquet"))
        try:
            return pq.read_table(pa.BufferReader(raw))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.url, f"{name}.parquet: {error}") from error

    def arrays(self, name: str) -> xr.Dataset:
        """One of its zarr groups, lazy."""
        return open_dataset(urls.join(self.url, f"{name}.zarr"))


def result_url(url: str, job: str, identity: Mapping[str, Any]) -> str:
    """Where the run that has this identity stands, or would."""
    return urls.join(url, RESULTS, job, config_digest(identity))


def save_result(
    url: str,
    job: str,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    identity: Mapping[str, Any] | None = None,
    tables: Mapping[str, pa.Table] | None = None,
    arrays: Mapping[str, xr.Dataset] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Result:
    """Write all that a run found, its provenance last: a result without it was never finished.

    Parameters
    ----------
    url : str
        The store.
    config : mapping
        The run's configuration, as it was given.
    identity : mapping, optional
        JSON-able: all that decides what is found, the content of what was read included. Runs
        that differ in it stand apart. By default the configuration.
    tables : mapping of str to pyarrow.Table
        Written as Parquet.
    arrays : mapping of str to xarray.Dataset
        Written as zarr groups.
    files : mapping of str to bytes
        Whatever else, such as pictures, by file name.

    Raises
    ------
    NotFinite
        If a figure is infinite, or is NaN in a column that is not of ``may_be_unknown``.
    """
    identity = dict(config if identity is None else identity)
    for name, table in (tables or {}).items():
        _refuse_not_finite(f"{job}/{name}", table)
    place = result_url(url, job, identity)
    urls.remove(urls.join(place, "provenance.json"))
    for name, table in (tables or {}).items():
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        urls.put_bytes(urls.join(place, f"{name}.parquet"), buffer.getvalue())
    for name, data in (arrays or {}).items():
        write_dataset(urls.join(place, f"{name}.zarr"), data)
    for name, content in (files or {}).items():
        urls.put_bytes(urls.join(place, name), content)
    now = datetime.now(UTC).isoformat()
    finished = {**provenance, "identity": identity, "finished": now, "asked": now}
    _put(place, "config", config)
    _put(place, "provenance", finished)
    write_index(url)
    return Result(place, job, dict(config), finished)


def _put(place: str, name: str, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True)
    urls.put_bytes(urls.join(place, f"{name}.json"), text.encode())


def _refuse_not_finite(name: str, table: pa.Table) -> None:
    for field in table.schema:
        if pa.types.is_floating(field.type):
            values = table[field.name].to_numpy()
            known = ~np.isnan(values) if unknown_allowed(field) else None
            refuse_not_finite(f"{name}, column {field.name}", values, ok=known)


def find_result(url: str, job: str, identity: Mapping[str, Any]) -> Result | None:
    """The finished run with this identity, if there is one."""
    return _read(result_url(url, job, identity), job)


def ask_again(result: Result) -> Result:
    """Note that a finished run was asked for once more: it then counts as the latest of its job."""
    asked = {**result.provenance, "asked": datetime.now(UTC).isoformat()}
    _put(result.url, "provenance", asked)
    write_index(result.url.rsplit("/", 3)[0])  # above results/<job>/<digest>
    return replace(result, provenance=asked)


def latest_result(url: str, job: str) -> Result:
    """The run of a job that was asked for last."""
    found = finished_results(url, job)
    if not found:
        raise StoreError(f"no results of {job} in {url}", Remedy.first(job, url))
    return found[-1]


def finished_results(url: str, job: str) -> list[Result]:
    """All finished runs of a job, the last to be asked for last."""
    places = [
        urls.join(url, RESULTS, job, n) for n in urls.list_names(urls.join(url, RESULTS, job))
    ]
    found = [r for place in places if (r := _read(place, job)) is not None]
    return sorted(found, key=_asked)


def _asked(result: Result) -> str:
    # Runs of before this was noted were asked for when they were done.
    known = result.provenance
    return known.get("asked") or known.get("finished") or ""


def _read(place: str, job: str) -> Result | None:
    raw = urls.read_each([urls.join(place, f"{name}.json") for name in ("config", "provenance")])
    found = [_parsed(place, content) for content in raw if content is not None]
    if len(found) < len(raw):
        return None
    config, provenance = found
    return Result(place, job, config, provenance)


# -- the index -----------------------------------------------------------------------------


def index(url: str) -> pa.Table:
    """Every finished result, in the order they finished, from the results themselves.

    Parameters
    ----------
    url : str
        Where ``results/`` stands.

    Returns
    -------
    pyarrow.Table
        ``INDEX_COLUMNS``. ``settings`` is JSON: those that differ from the job's defaults, or all,
        of results of before that was noted. ``address`` is relative to the URL.
    """
    places = [
        "/".join([RESULTS, job, name])
        for job in urls.list_names(urls.join(url, RESULTS))
        if "." not in job
        for name in urls.list_names(urls.join(url, RESULTS, job))
        if "." not in name  # summaries of run files
    ]
    files = [urls.join(url, p, f"{n}.json") for p in places for n in ("config", "provenance")]
    read = iter(urls.read_each(files) if files else [])
    rows = [
        _index_row(place, *(_parsed(place, raw) for raw in (config, provenance)))
        for place, config, provenance in zip(places, read, read, strict=True)
        if config is not None and provenance is not None  # never finished, or being done again
    ]
    rows.sort(key=lambda row: (row["finished"] or "", row["address"]))
    return pa.Table.from_pylist(rows, INDEX_COLUMNS)


def _parsed(place: str, raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError as error:
        raise _damaged(place, error) from error
    if not isinstance(found, dict):
        raise _damaged(place, "no mapping stands in a file of it")
    return found


def _damaged(place: str, why: object) -> StoreError:
    return StoreError(f"{place} is damaged: {why}. Delete it and run its job again")


def _index_row(
    place: str, config: dict[str, Any], provenance: dict[str, Any]
) -> dict[str, str | int | None]:
    given = {n: v for n, v in config.items() if n not in ("store", "out") and v is not None}
    return {
        "job": place.split("/")[1],
        "finished": provenance.get("finished"),
        "asked": provenance.get("asked") or provenance.get("finished"),
        "images": next((provenance[n] for n in _IMAGES if n in provenance), None),
        "settings": json.dumps(provenance.get("differs", given), ensure_ascii=False),
        "address": place,
    }


def write_index(url: str) -> None:
    """Write the index anew; of several runs that end at once, the last to write sees them all."""
    found = index(url)
    while True:
        buffer = io.BytesIO()
        pq.write_table(found, buffer)
        urls.put_bytes(urls.join(url, RESULTS, INDEX), buffer.getvalue())
        again = index(url)
        if again.equals(found):
            return
        found = again


def read_index(url: str) -> pa.Table | None:
    """The index as it stands, which other runs may have outdated; None where there is none."""
    (content,) = urls.read_each([urls.join(url, RESULTS, INDEX)])
    return None if content is None else pq.read_table(pa.BufferReader(content))
