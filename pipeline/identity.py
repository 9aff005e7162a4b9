"""What decides a result: settings, and the content of all that a job read.

Two runs with one identity find the same; the second only points to the first. Names of files and
places are no part of it, what they held is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage import ledger
from storage.reductions import as_spans
from storage.results import Result, ask_again, find_result, finished_results
from storage.store import Store

from .provenance import revision

# Settings that say where, by what means and how patiently. The store's own identity stands for
# its place, images, how they are decoded, and weights; the content of a pool or of classes for
# their names.
MEANS = frozenset(
    {
        "store", "from_", "to", "out", "images", "decode", "model", "pretrained", "pool",
        "classes", "edit", "device", "num_actors", "workers", "batch_size", "max_bad",
    }
)  # fmt: skip


def settings(config: Any) -> dict[str, Any]:
    """A job's settings that decide what is found, JSON-able."""
    given = {name: value for name, value in asdict(config).items() if name not in MEANS}
    return json.loads(json.dumps(given))


def over(store: Store, shards: Iterable[int] | None = None) -> dict[str, Any]:
    """Which images of a store: its identity, shards, and what became of every image of these.

    Parameters
    ----------
    store : Store
    shards : iterable of int, optional
        By default all that are finished.
    """
    found = sorted(store.done_shards() if shards is None else shards)
    facts = json.dumps(list(ledger.read_facts(store.data, found)), sort_keys=True)
    return {
        "store": store.meta.digest(),
        "shards": [list(r) for r in as_spans(found)],
        # A shard that was done again after a repair may have other images that are ok.
        "ledger": hashlib.sha256(facts.encode()).hexdigest(),
    }


def held(place: str) -> str:
    """What stands for a file or a folder of this machine in an identity: sha256 of what it holds.

    Of a folder that is all files below it, with their names. What is neither is a name that others
    know, and stands for itself.
    """
    path = Path(place).expanduser()
    if not path.exists():
        return place
    found = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            name = file.relative_to(path).as_posix() if file != path else ""
            found.update(name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


def found_before(url: str, job: str, identity: dict[str, Any]) -> Result | None:
    """The finished run with this identity by this very code; it now counts as asked for last."""
    result = find_result(url, job, identity)
    if result is None or result.provenance.get("revision") != revision():
        return None
    latest = finished_results(url, job)[-1]
    return latest if latest.name == result.name else ask_again(result)
