"""The recipe of ``facet status``: what a store says of its own making."""

from __future__ import annotations

from collections import Counter
from typing import Any

from humanize import naturaldelta

from jobs.console import show_next, show_table
from jobs.status import StatusConfig
from pipeline.images.bad import BadImages
from pipeline.pages.plain import to_json
from pipeline.status import ExtractionStatus, Status, status
from pipeline.telling import several
from storage.layout import HEADS


def run(config: StatusConfig) -> Status:
    """Read the ledgers and print what they say."""
    found = status(config.store)
    if config.format == "json":
        print(to_json(found))
        return found
    of = found.extraction
    what = f"{found.model} over {found.source}" if found.model else "results"
    show_table(what, {"state": "finished results alone"} if of is None else extraction_rows(of))
    tables: dict[str, dict[str, object]] = {
        "neurons": {
            f"layer {n['layer']} {n['quantity']}": several(n["shards_done"], "shard")
            for n in found.neurons
        },
        "reductions": {
            r["where"] or "all": ", ".join(f"{n:,} {name}" for name, n in r["counts"].items())
            for r in found.reductions
        },
        "index": index_rows(found.index, 0 if of is None else of.shards_done),
        "results": {r["url"].removeprefix(f"{found.url}/results/"): r["finished"] or "finished"
                    for r in found.results},
        "runs of run files": {
            r["run"]: f"{'ok' if r['ok'] else 'failed'}, {r['finished']}" for r in found.runs
        },
        "never finished": {u["url"]: u["what"] for u in found.unfinished},
    }  # fmt: skip
    for title, rows in tables.items():
        if rows:
            show_table(title, rows)
    if of is not None and of.state in ("stopped", "unfinished"):
        show_next("the same `facet extract` command goes on from the finished shards")
    return found


def index_rows(parts: list[dict[str, Any]], done: int) -> dict[str, object]:
    """Parts by layer or kind: how many there are, and how many finished shards they count."""
    counts: dict[str, list[int]] = {}
    for part in parts:
        kind, _, number = part["part"].partition("/")
        of = f"heads of layer {number.partition('.')[0]}" if kind == HEADS else kind
        counts.setdefault(of, []).append(part["shards_done"])
    return {
        of: f"{several(len(shards), 'part')}, {min(shards):,} of {several(done, 'shard')}"
        for of, shards in counts.items()
    }


def extraction_rows(of: ExtractionStatus) -> dict[str, object]:
    """The ledger's facts, for people."""
    rows: dict[str, object] = {
        "state": of.state,
        "shards": f"{of.shards_done:,} of {of.shards:,} finished",
        "images": f"{of.images_ok:,} ok, {of.images_bad:,} bad, of {of.images:,}",
        **BadImages(Counter(of.bad), of.bad_named).rows(),
    }
    if of.residual is not None and of.rounding is not None:
        rows["exactness"] = f"residual at most {of.residual:.1e}, rounding {of.rounding:.1e}"
    if of.last_shard is not None:
        rows["last shard"] = of.last_shard
    if of.images_per_second is not None:
        rows["rate"] = f"{of.images_per_second:,.1f} images/s while it worked"
    if of.seconds_left is not None:
        rows["time left"] = naturaldelta(of.seconds_left)
    return rows
