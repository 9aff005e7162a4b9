"""All results of a store, one of them, and its tables."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.explorer.results import (
    ResultList,
    ResultView,
    TableView,
    result_list,
    result_view,
    table_view,
)
from pipeline.explorer.web.views import Here, view

router = APIRouter()


@view(router, "/s/{store}/results", "results.html")
def results(here: Here) -> ResultList:
    """All finished results, and the commands that find what is lacking."""
    return result_list(here)


@view(router, "/s/{store}/result/{job}/{name}", "result.html")
def result(here: Here, job: str, name: str) -> ResultView:
    """One result: the command that made it, its settings, its tables."""
    return result_view(here, job, name)


@view(router, "/s/{store}/result/{job}/{name}/{table}", "table.html")
def result_table(
    here: Here,
    job: str,
    name: str,
    table: str,
    sort: str = "",
    down: bool = False,
    after: Annotated[int, Query(ge=0)] = 0,
) -> TableView:
    """A table of a result, with what each column is."""
    return table_view(here, job, name, table, sort, down, after)
