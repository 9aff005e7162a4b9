"""The ledger: which shards are finished, and what became of each image.

One Parquet part a shard, written last, whole or not at all. A shard is done if and only
if its part exists.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from . import urls
from .errors import StoreError
from .layout import LEDGER

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("ok", pa.bool_()),
        ("error", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
_PART = re.compile(r"part-(\d{8})\.parquet")


def part_url(url: str, shard: int) -> str:
    return urls.join(url, LEDGER, f"part-{shard:08d}.parquet")


def write_part(url: str, shard: int, rows: pa.Table, facts: dict[str, Any]) -> None:
    """Declare a shard finished.

    Parameters
    ----------
    url : str
        The store.
    shard : int
    rows : pyarrow.Table
        One row an image of the shard, with ``SCHEMA``.
    facts : dict
        JSON-able facts about the shard, kept in the part's own metadata.
    """
    metadata = {b"facet": json.dumps(facts, sort_keys=True).encode()}
    buffer = io.BytesIO()
    pq.write_table(rows.cast(SCHEMA).replace_schema_metadata(metadata), buffer)
    urls.put_bytes(part_url(url, shard), buffer.getvalue())


def done_shards(url: str) -> set[int]:
    """Shards whose ledger part exists: one listing, no file is opened."""
    names = urls.list_names(urls.join(url, LEDGER))
    return {int(m.group(1)) for name in names if (m := _PART.fullmatch(name))}


def read_facts(url: str, shard: int) -> dict[str, Any]:
    """The facts kept with a finished shard."""
    schema = pq.read_schema(io.BytesIO(urls.read_bytes(part_url(url, shard))))
    return json.loads((schema.metadata or {}).get(b"facet", b"{}"))


def read_part(url: str, shard: int) -> pa.Table:
    """One finished shard's rows."""
    return pq.read_table(io.BytesIO(urls.read_bytes(part_url(url, shard))), schema=SCHEMA)


def read_ledger(url: str) -> pa.Table:
    """Every finished shard's rows, in image order."""
    shards = sorted(done_shards(url))
    if not shards:
        return SCHEMA.empty_table()
    fs, _ = urls.filesystem(url)
    paths = [urls.filesystem(part_url(url, s))[1] for s in shards]
    try:
        return ds.dataset(paths, schema=SCHEMA, format="parquet", filesystem=fs).to_table()
    except pa.ArrowInvalid as error:
        raise StoreError(f"a ledger part of {url} cannot be read: {error}") from error
