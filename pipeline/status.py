"""What has become of a store, told from its ledgers and result folders alone: nothing is run."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from storage import ledger, neurons, urls
from storage.layout import REDUCTIONS, RESULTS
from storage.metadata import Metadata
from storage.reductions import TABLE, all_reductions
from storage.results import finished_results
from storage.store import Store

from .images.bad import BadImages

# Where the summaries of run files stand, below the results.
RUNS = "run"
# The rate is that of the last so many parts.
RECENT = 100
# A run counts as under way this long after its last part, or so many times a part's usual time.
SECONDS_QUIET = 300.0
TIMES_QUIET = 3.0


@dataclass(frozen=True)
class ExtractionStatus:
    """What the ledger says.

    Attributes
    ----------
    state : {"not started", "running", "stopped", "finished"}
        ``running``: a shard was finished lately.
    shards, shards_done, images, images_ok, images_bad : int
    bad : dict of str to int
        Bad images by kind.
    bad_named : dict of str to list of str
        The first few of each kind: their keys, and what is wrong.
    residual, rounding : float or None
        The largest of any image.
    last_shard : str or None
        When the last shard was finished, ISO 8601.
    images_per_second, seconds_left : float or None
        Over the last parts; the time left only while it runs.
    """

    state: str
    shards: int
    shards_done: int
    images: int
    images_ok: int
    images_bad: int
    bad: dict[str, int]
    bad_named: dict[str, list[str]]
    residual: float | None
    rounding: float | None
    last_shard: str | None
    images_per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class Status:
    """All that is known of a store.

    Attributes
    ----------
    url, model, source : str
    extraction : ExtractionStatus
    neurons : list of dict
        ``layer``, ``quantity``, ``shards_done``.
    reductions : list of dict
        ``where``, ``counts`` by quantity, ``shards`` counted by component.
    results : list of dict
        ``job``, ``url``, ``finished`` (ISO 8601 or None), in the order they finished.
    unfinished : list of dict
        ``what``, ``url``: results and reductions that were started and never finished.
    runs : list of dict
        Summaries of run files, in the order they ended: ``run``, ``ok``, ``finished``, ``seconds``
        and ``stages``.
    """

    url: str
    model: str
    source: str
    extraction: ExtractionStatus
    neurons: list[dict[str, Any]]
    reductions: list[dict[str, Any]]
    results: list[dict[str, Any]]
    unfinished: list[dict[str, Any]]
    runs: list[dict[str, Any]]


def status(store: Store) -> Status:
    """Read what a store's ledgers and result folders say; one short read a finished shard."""
    url, meta = store.url, store.meta
    reductions = all_reductions(url, meta)
    kept = {r.facts.where for r in reductions}
    unfinished = []
    if len(kept) < len(groups := _folders(urls.join(url, REDUCTIONS))):
        what = f"{len(groups) - len(kept)} subsets, or they are of an earlier state of the store"
        unfinished.append({"what": what, "url": urls.join(url, REDUCTIONS)})
    results = []
    for job in _folders(urls.join(url, RESULTS)):
        found = finished_results(url, job)
        results += [
            {"job": job, "url": r.url, "finished": r.provenance.get("finished")} for r in found
        ]
        places = {urls.join(url, RESULTS, job, n) for n in _folders(urls.join(url, RESULTS, job))}
        unfinished += [{"what": job, "url": p} for p in sorted(places - {r.url for r in found})]
    return Status(
        url=url,
        model=f"{meta.architecture} ({meta.weights})",
        source=meta.source,
        extraction=extraction(store.data, meta, time.time()),
        neurons=[
            {
                "layer": layer,
                "quantity": quantity,
                "shards_done": len(neurons.done(url, layer, quantity)),
            }
            for layer in neurons.kept_layers(url)
            for quantity in neurons.kept(url, layer)
        ],
        reductions=[
            {
                "where": r.facts.where,
                "counts": {t.name: r.count(t.name) for t in TABLE if f"{t.name}_count" in r.data},
                "shards": {name: len(r.facts.counted(name)) for name in r.facts.shards},
            }
            for r in reductions
        ],
        results=sorted(results, key=lambda r: r["finished"] or ""),
        unfinished=unfinished,
        runs=runs(url),
    )


def runs(url: str) -> list[dict[str, Any]]:
    """Summaries of the run files that were run over a store."""
    place = urls.join(url, RESULTS, RUNS)
    summaries = [n for n in urls.list_names(place) if n.endswith(".json")]
    found = [json.loads(urls.read_bytes(urls.join(place, name))) for name in summaries]
    return sorted(found, key=lambda run: run["finished"])


def extraction(url: str, meta: Metadata, now: float) -> ExtractionStatus:
    """What the ledger says, at a moment in seconds since 1970."""
    finished = {s: t for s, t in ledger.finished_at(url).items() if s < meta.shards}
    bad = BadImages()
    largest: dict[str, float] = {}
    for facts in ledger.read_facts(url, sorted(finished)):
        bad.add(facts)
        for name in ("residual", "rounding"):
            if name in facts:
                largest[name] = max(largest.get(name, 0.0), facts[name]["max"])
    done = sum(_images(meta, shard) for shard in finished)
    recent = sorted(finished, key=finished.__getitem__)[-RECENT:]
    rate = left = last = None
    state = "not started"
    if finished:
        last = finished[recent[-1]]
        span = last - finished[recent[0]]
        if span > 0:
            rate = sum(_images(meta, s) for s in recent[1:]) / span
        usual = span / max(1, len(recent) - 1)
        state = "stopped"
        if len(finished) == meta.shards:
            state = "finished"
        elif now - last <= max(SECONDS_QUIET, TIMES_QUIET * usual):
            state = "running"
            left = (meta.images - done) / rate if rate else None
    return ExtractionStatus(
        state=state,
        shards=meta.shards,
        shards_done=len(finished),
        images=meta.images,
        images_ok=done - bad.total(),
        images_bad=bad.total(),
        bad=dict(bad.counts.most_common()),
        bad_named=bad.named,
        residual=largest.get("residual"),
        rounding=largest.get("rounding"),
        last_shard=None if last is None else datetime.fromtimestamp(last, UTC).isoformat(),
        images_per_second=rate,
        seconds_left=left,
    )


def _images(meta: Metadata, shard: int) -> int:
    start, stop = meta.rows(shard)
    return stop - start


def _folders(url: str) -> list[str]:
    return [name for name in urls.list_names(url) if "." not in name]
