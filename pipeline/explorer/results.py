"""Every result that a store holds: what it is, the command that made it, and its tables."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.explorer.library import NotHere, Opened
from pipeline.explorer.neurons import is_older
from pipeline.repair.answers import Repaired, repaired
from pipeline.telling import when
from storage import urls
from storage.errors import FacetError
from storage.results import Result, index
from storage.schema import meanings

# Stands for the name of a result.
LATEST = "latest"
# Rows of a table on a page.
PAGE = 100
# Letters of a fact that are shown; all of them are in the JSON.
LONG = 200


@dataclass(frozen=True)
class ResultRow:
    """A result of the list.

    Attributes
    ----------
    job, name : str
        ``name`` is the last part of its address.
    finished : str
        When it was finished; empty where that is not known.
    images : int or None
        Images that it is over; None of jobs that count none.
    settings : dict
        Those that are not the job's defaults.
    """

    job: str
    name: str
    finished: str
    images: int | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class ResultList:
    """All finished results of a store.

    Attributes
    ----------
    results : list of ResultRow
        The one that was finished last first.
    lacking : dict of str to str
        By job, the command that finds what no result has found yet.
    """

    results: list[ResultRow]
    lacking: dict[str, str]


def result_list(here: Opened) -> ResultList:
    """All finished results of a store."""
    return here.cached("result list", lambda: _listed(here))


def _listed(here: Opened) -> ResultList:
    rows = [
        ResultRow(
            row["job"], row["address"].rpartition("/")[2], when(row["finished"]), row["images"],
            json.loads(row["settings"]),
        )
        for place in dict.fromkeys([here.store.data, here.url])
        for row in index(place).to_pylist()
        # Images are extracted where they are kept: of a view, elsewhere.
        if place == here.url or row["job"] == "extract"
    ]  # fmt: skip
    jobs = {row.job for row in rows}
    lacking = {job: hint for job, hint in here.hints().items() if job.replace("-", "_") not in jobs}
    return ResultList(rows[::-1], lacking)


def find(here: Opened, job: str, name: str) -> Result:
    """A result by its job and name, of those that are listed; ``latest`` is the one that was asked
    for last.

    Raises
    ------
    NotHere
        If there is none.
    """
    if any(row.job == job for row in result_list(here).results):
        for result in here.results(job):
            if name in (result.name, LATEST):
                return result
    raise NotHere(f"there is no result {name} of {job}")


@dataclass(frozen=True)
class TableFacts:
    """A table of a result."""

    name: str
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class ResultView:
    """One result.

    Attributes
    ----------
    job, name, url : str
    command : str
        As it was typed; empty where no job makes such results.
    finished : str
    older : bool
        Whether the store holds other images now.
    settings, provenance : dict
        As they were kept.
    tables : list of TableFacts
    repaired : Repaired or None
        What a repair brought, where the result is one.
    """

    job: str
    name: str
    url: str
    command: str
    finished: str
    older: bool
    settings: dict[str, Any]
    provenance: dict[str, Any]
    tables: list[TableFacts]
    repaired: Repaired | None

    @property
    def facts(self) -> dict[str, str]:
        """What is known of how it came to be, short."""
        told = {}
        for name, value in self.provenance.items():
            if name not in ("finished", "asked", "differs", "identity"):
                said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                told[name] = said if len(said) <= LONG else f"{said[:LONG]}…"
        return told

    @property
    def groups(self) -> pd.DataFrame | None:
        """Accuracy of each group by edit, where groups were repaired."""
        return None if self.repaired is None else self.repaired.by_group()


def result_view(here: Opened, job: str, name: str) -> ResultView:
    """One result.

    Raises
    ------
    NotHere
        If there is none of that job and name.
    """
    result = find(here, job, name)
    return ResultView(
        job, result.name, result.url, here.command(job.replace("_", "-"), result.config),
        when(result.provenance.get("finished")), is_older(here, result), result.config,
        result.provenance,
        [
            TableFacts(table, len(rows), len(rows.columns))
            for table in table_names(here, result)
            for rows in [table_of(here, result, table)]
        ],
        repaired(result) if job == "repair" else None,
    )  # fmt: skip


def table_names(here: Opened, result: Result) -> list[str]:
    """Tables of a result that are one file each."""
    names = here.cached(("files", result.url), lambda: urls.list_names(result.url))
    return sorted(n.removesuffix(".parquet") for n in names if n.endswith(".parquet"))


def table_of(here: Opened, result: Result, name: str) -> pd.DataFrame:
    """A table of a result.

    Raises
    ------
    NotHere
        If it has no such table.
    """
    if name not in (there := table_names(here, result)):
        raise NotHere(f"this result has no table {name}, but {', '.join(there) or 'none'}")
    return here.cached(("table", result.url, name), lambda: result.table(name).to_pandas())


@dataclass(frozen=True, eq=False)
class TableView:
    """A part of a table.

    Attributes
    ----------
    job, result, name : str
    meanings : dict of str to str
        What each column is.
    columns : list of str
    figures : set of str
        Columns of numbers.
    sort : str
        The column that it is sorted by; empty where it is as it was kept.
    down : bool
        Whether the largest comes first.
    rows : DataFrame
    start, total : int
        Where in the table these rows stand, and rows in it.
    """

    job: str
    result: str
    name: str
    meanings: dict[str, str]
    columns: list[str]
    figures: list[str]
    sort: str
    down: bool
    rows: pd.DataFrame
    start: int
    total: int

    @property
    def cells(self) -> list[list[tuple[str, str]]]:
        """What stands in each row, by column."""
        return [
            [(str(name), _said(value)) for name, value in row.items()]
            for row in self.rows.to_dict("records")
        ]


def _said(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        return ", ".join(map(str, value.tolist()))
    return str(value)


def table_view(
    here: Opened, job: str, name: str, table: str, sort: str, down: bool, start: int
) -> TableView:
    """A page of a result's table.

    Raises
    ------
    NotHere
        If there is no such result or table.
    FacetError
        If there is no such column to sort by.
    """
    result = find(here, job, name)
    rows = table_of(here, result, table)
    if sort:
        if sort not in rows.columns:
            raise FacetError(f"{table} has no column {sort!r}, but {', '.join(rows.columns)}")
        rows = rows.sort_values(sort, ascending=not down, kind="stable")
    return TableView(
        job, result.name, table, meanings().get(f"{job}/{table}", {}),
        [str(c) for c in rows.columns],
        [str(c) for c in rows.select_dtypes("number").columns], sort, down,
        rows[start : start + PAGE], start, len(rows),
    )  # fmt: skip
