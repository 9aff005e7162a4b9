"""What has become of a store, told from its ledgers and result folders alone: nothing is run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from storage import head_index, ledger, neurons, urls
from storage.errors import StoreError
from storage.layout import REDUCTIONS, RESULTS
from storage.metadata import Metadata
from storage.reductions import TABLE, all_reductions
from storage.results import finished_results
from storage.rosetta import find_setup, read_cards
from storage.store import open_store
from storage.tables import StoreTables
from storage.views import find_metadata

from .images.bad import BadImages

# Where the summaries of run files stand, below the results.
RUNS = "run"
# A run counts as under way this long after its last part, or so many times what that took.
SECONDS_QUIET = 300.0
TIMES_QUIET = 3.0


@dataclass(frozen=True)
class ExtractionStatus:
    """What the ledger says.

    Attributes
    ----------
    state : {"not started", "running", "stopped", "unfinished", "finished"}
        ``running``: a shard was finished lately; ``unfinished``: some lack, and it is not known
        when the others were finished.
    shards, shards_done, images, images_ok, images_bad : int
    bad : dict of str to int
        Bad images by kind.
    bad_named : dict of str to list of str
        The first few of each kind: their keys, and what is wrong.
    residual, rounding : float or None
        The largest of any image.
    last_shard : str or None
        When the last shard was finished, ISO 8601; unknown of stores of before this was kept.
    images_per_second, seconds_left : float or None
        Over the time that work went on since it was last taken up, as far as it is known; the
        time left only while it runs.
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
    """All that is known of a store, or of another place of results.

    Attributes
    ----------
    url, model, source : str
        Of units that models share, the models; empty where only results are.
    extraction : ExtractionStatus or None
        Of a store.
    neurons : list of dict
        ``layer``, ``quantity``, ``shards_done``.
    reductions : list of dict
        ``where``, ``counts`` by quantity, ``shards`` counted by component.
    index : list of dict
        ``part``, ``shards_done``: of the store's finished ones; none of a part that is damaged, or
        of another store.
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
    extraction: ExtractionStatus | None
    neurons: list[dict[str, Any]]
    reductions: list[dict[str, Any]]
    index: list[dict[str, Any]]
    results: list[dict[str, Any]]
    unfinished: list[dict[str, Any]]
    runs: list[dict[str, Any]]


def status(url: str) -> Status:
    """Read what ledgers and result folders say; one short read a finished shard.

    Parameters
    ----------
    url : str
        A store, a place of units that models share, or a place that only holds results.

    Raises
    ------
    StoreError
        If none of them is there.
    """
    url = urls.absolute(url)
    setup = find_setup(url)
    if setup is not None or (find_metadata(url) is None and _folders(urls.join(url, RESULTS))):
        models = ", ".join(card.name for card in read_cards(url).values())
        source = "" if setup is None else setup.source or str(setup.generator)
        return Status(url, models, source, None, [], [], [], *results(url), runs(url))
    store = open_store(url)
    meta = store.meta
    reductions = all_reductions(url, meta)
    kept = {r.facts.where for r in reductions}
    found, unfinished = results(url)
    if len(kept) < len(groups := _folders(urls.join(url, REDUCTIONS))):
        what = f"{len(groups) - len(kept)} subsets, or they are of an earlier state of the store"
        unfinished.insert(0, {"what": what, "url": urls.join(url, REDUCTIONS)})
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
        index=index(store),
        results=found,
        unfinished=unfinished,
        runs=runs(url),
    )


def index(store: StoreTables) -> list[dict[str, Any]]:
    """Parts of a store's index, and how many of its finished shards each counts."""
    done, digest = store.done_shards(), store.meta.digest()
    return [
        {
            "part": part,
            "shards_done": 0
            if isinstance(facts, StoreError) or facts.store != digest
            else len(facts.counted() & done),
        }
        for part, facts in head_index.all_parts(store.url).items()
    ]


def results(url: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Finished results of all jobs, in the order they finished; those never finished."""
    finished, unfinished = [], []
    for job in _folders(urls.join(url, RESULTS)):
        found = finished_results(url, job)
        finished += [
            {"job": job, "url": r.url, "finished": r.provenance.get("finished")} for r in found
        ]
        places = {urls.join(url, RESULTS, job, n) for n in _folders(urls.join(url, RESULTS, job))}
        unfinished += [{"what": job, "url": p} for p in sorted(places - {r.url for r in found})]
    return sorted(finished, key=lambda r: r["finished"] or ""), unfinished


def runs(url: str) -> list[dict[str, Any]]:
    """Summaries of the run files that were run over a store."""
    place = urls.join(url, RESULTS, RUNS)
    summaries = [n for n in urls.list_names(place) if n.endswith(".json")]
    found = [json.loads(urls.read_bytes(urls.join(place, name))) for name in summaries]
    return sorted(found, key=lambda run: run["finished"])


def extraction(url: str, meta: Metadata, now: float) -> ExtractionStatus:
    """What the ledger says, at a moment in seconds since 1970."""
    finished = sorted(s for s in ledger.done_shards(url) if s < meta.shards)
    bad = BadImages()
    largest: dict[str, float] = {}
    work = []
    for shard, (facts, span) in zip(finished, ledger.read_work(url, finished), strict=True):
        bad.add(facts)
        for name in ("residual", "rounding"):
            if name in facts:
                largest[name] = max(largest.get(name, 0.0), facts[name]["max"])
        if span is not None:
            work.append((*span, _images(meta, shard)))
    done = sum(_images(meta, shard) for shard in finished)
    rate, left = images_per_second(work), None
    began, last, _ = max(work, key=lambda part: part[1], default=(None, None, 0))
    if not finished:
        state = "not started"
    elif len(finished) == meta.shards:
        state = "finished"
    elif began is None or last is None:
        state = "unfinished"
    elif now - last <= max(SECONDS_QUIET, TIMES_QUIET * (last - began)):
        state = "running"
        left = (meta.images - done) / rate if rate else None
    else:
        state = "stopped"
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


def images_per_second(work: Iterable[tuple[float, float, int]]) -> float | None:
    """Images a second, over the time that work went on since it was last taken up.

    Time in which no shard was under way does not count, so that neither what a worker's start
    takes nor a stop is in it; what stands before a longer silence is another run, and left out.

    Parameters
    ----------
    work : iterable of (float, float, int)
        When work on a shard began, when it ended, and its images.
    """
    images, seconds, earliest = 0, 0.0, math.inf
    for began, ended, count in sorted(work, key=lambda part: part[1], reverse=True):
        if images and earliest - ended > SECONDS_QUIET:
            break
        # Those before this one ended later: between its end and the earliest of their beginnings
        # nothing was under way.
        seconds += max(0.0, min(ended, earliest) - began)
        earliest = min(earliest, began)
        images += count
    return images / seconds if seconds > 0 else None


def _images(meta: Metadata, shard: int) -> int:
    start, stop = meta.rows(shard)
    return stop - start


def _folders(url: str) -> list[str]:
    return [name for name in urls.list_names(url) if "." not in name]
