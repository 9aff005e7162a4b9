"""What ``facet extract`` says at its end; all of it, where a run before did the work."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from humanize import naturalsize

from jobs import extract
from jobs.console import TELLER, say_found, show_next, show_table
from jobs.settings import describing
from pipeline.extraction.finished import find_finished
from pipeline.extraction.progress import Progress, so_far
from pipeline.identity import settings
from pipeline.images.rows import ListingReport
from storage import urls
from storage.layout import CONTRIBUTIONS
from storage.results import find_result
from storage.store import Store

JOB = "extract"


def identity(config: extract.ExtractConfig, store: Store) -> dict[str, Any]:
    """What the run is known by."""
    return {"settings": settings(config), "store": store.meta.digest()}


def find(config: extract.ExtractConfig) -> Store | None:
    """The finished store, summed up again; None where there may be work to do."""
    started = time.monotonic()
    found = find_finished(urls.absolute(config.store), extract.spec_of(config), TELLER)
    if found is None:
        return None
    store, report = found
    if find_result(store.url, JOB, identity(config, store)) is None:
        return None  # its last shard was done, and it was stopped before it had said so
    progress = so_far(store, config.max_bad)
    say_found(store.url)
    show_summary(store, report, progress, time.monotonic() - started)
    return store


def show_summary(store: Store, report: ListingReport, progress: Progress, seconds: float) -> None:
    """What was done, what was not, how exact it is, and what to type next."""
    files, size = map(sum, zip(*store.size().values(), strict=True))
    bad = progress.bad.total()
    facts: dict[str, object] = {
        "images": f"{store.meta.images - bad:,} ok, {bad:,} bad",
        **progress.bad.rows(),
        **report.facts(),
        "this run": f"{progress.images:,} images in {seconds:.0f} s",
    }
    for name, largest in sorted(progress.largest.items()):
        mean = progress.sums[name] / (store.meta.images - bad)
        facts[name] = f"mean {mean:.1e}, max {largest:.1e}"
    facts["store"] = f"{naturalsize(size)} in {files:,} files at {store.url}"
    facts["opens by"] = opening(store.url)
    show_table("done", facts)
    show_next(next_command(store))


def next_command(store: Store) -> str:
    """What the parts are for."""
    return describing(store.url, store.meta)


def opening(url: str) -> str:
    """The store opened without any code of ours."""
    opened = json.dumps(urls.join(url, CONTRIBUTIONS), ensure_ascii=False)
    return shlex.join(["python", "-c", f"import xarray; print(xarray.open_zarr({opened}))"])
