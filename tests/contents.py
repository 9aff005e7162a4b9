"""What a store holds, to be compared with another: all but results and the hours of work."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def stored_files(root: Path | str) -> dict[str, Path]:
    """Every file of a store, by its place there; results say when runs ended and are left out."""
    files = {p.relative_to(root): p for p in Path(root).rglob("*") if p.is_file()}
    return {name.as_posix(): p for name, p in files.items() if "results" not in name.parts}


def contents(root: Path | str) -> dict[str, object]:
    """The bytes of every file; of a ledger's parts the rows, and the facts about the shard."""
    return {
        name: _part(place) if name.startswith("ledger/") else place.read_bytes()
        for name, place in stored_files(root).items()
    }


def _part(place: Path) -> object:
    table = pq.read_table(place)
    return table.to_pydict(), table.schema.metadata[b"facet"]
