"""A store's results, as the sections of its page read them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from pipeline import status
from pipeline.identity import over
from pipeline.telling import when
from storage.results import Result, finished_results
from storage.store import Store

from . import notes
from .html import Made

# Images that shares and histograms are over, about.
READ = 2000

Typed = Callable[[str, Mapping[str, Any]], str]


@dataclass(frozen=True, eq=False)
class Reader:
    """A store's results, for the page.

    Attributes
    ----------
    store : Store
    typed : callable
        The command that a job with a configuration is run by.
    following : dict of str to str
        What to type for what is not found yet, by job.
    pretrained : str or None
        The weights file, if it is no longer where it was.
    """

    store: Store
    typed: Typed
    following: Mapping[str, str]
    pretrained: str | None = None
    _kept: dict[str, list[Result]] = field(default_factory=dict)

    def results(self, job: str) -> list[Result]:
        """Finished results of a job, the one that was asked for last first."""
        if job not in self._kept:
            place = self.store.data if job == "extract" else self.store.url
            self._kept[job] = finished_results(place, job)[::-1]
        return self._kept[job]

    def made(self, result: Result) -> Made:
        """How a result came to be."""
        job = result.job.replace("_", "-")
        return Made(self.typed(job, result.config), when(result.provenance.get("finished")))

    @cached_property
    def now(self) -> dict[str, Any]:
        """Which images are finished."""
        return over(self.store)

    def older(self, result: Result) -> list[str]:
        """A note where a result is over other images than those that are finished now."""
        then = result.provenance.get("identity", {}).get("over")
        return notes.older(then is not None and then != self.now)

    @cached_property
    def extraction(self) -> status.ExtractionStatus:
        return status.extraction(self.store.data, self.store.meta, time.time())


def by_part(
    results: Iterable[Result], parts: Callable[[Result], Iterable[Any]]
) -> dict[Any, Result]:
    """The result of every part, such as a study or a layer, that was asked for last."""
    found: dict[Any, Result] = {}
    for result in results:
        for part in parts(result):
            found.setdefault(part, result)
    return found


def classes_of(result: Result, table: pd.DataFrame) -> int:
    """Among how many classes it was chosen; of older results, of how many there were images."""
    seen = table.loc[table["scope"] == "class", "name"].nunique()
    return int(result.provenance.get("classes", seen))
