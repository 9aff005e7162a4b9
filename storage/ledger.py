"""The ledger: which shards are finished, and what became of each image.

One Parquet part a shard, written last, whole or not at all. A shard is done if and only
if its part exists.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
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
# Holds the footer of a part, unless its facts are long; parts that are read together.
TAIL = 16_384
AT_ONCE = 1000
Span = tuple[float, float]


def part_url(url: str, shard: int, folder: str = LEDGER) -> str:
    return urls.join(url, folder, f"part-{shard:08d}.parquet")


def write_part(
    url: str,
    shard: int,
    rows: pa.Table,
    facts: dict[str, Any],
    folder: str = LEDGER,
    started: float | None = None,
) -> None:
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
    folder : str
        Which of the store's ledgers: its own, or one of neurons.
    started : float, optional
        When work on it began, seconds since 1970: kept with the moment of this call. They are no
        facts about the shard, by which results know it.
    """
    metadata = {b"facet": json.dumps(facts, sort_keys=True).encode()}
    if started is not None:
        span = {"started": started, "finished": time.time()}
        metadata[b"facet_work"] = json.dumps(span).encode()
    buffer = io.BytesIO()
    pq.write_table(rows.cast(SCHEMA).replace_schema_metadata(metadata), buffer)
    urls.put_bytes(part_url(url, shard, folder), buffer.getvalue())


def done_shards(url: str, folder: str = LEDGER) -> set[int]:
    """Shards whose ledger part exists: one listing, no file is opened."""
    names = urls.list_names(urls.join(url, folder))
    return {int(m.group(1)) for name in names if (m := _PART.fullmatch(name))}


def read_facts(url: str, shards: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The facts kept with finished shards, in order: only the end of each part is read."""
    return (facts for facts, _ in read_work(url, shards))


def read_work(url: str, shards: Iterable[int]) -> Iterator[tuple[dict[str, Any], Span | None]]:
    """The facts kept with finished shards, and when work on each began and ended.

    The second, in seconds since 1970, is None of parts that were written before it was kept.
    """
    places = [part_url(url, shard) for shard in shards]
    for first in range(0, len(places), AT_ONCE):
        some = places[first : first + AT_ONCE]
        for place, tail in zip(some, urls.read_tails(some, TAIL), strict=True):
            try:
                # A part ends with its footer, the footer's length, and four letters.
                footer = int.from_bytes(tail[-8:-4], "little") + 8
                if footer > len(tail):
                    (tail,) = urls.read_tails([place], footer)
                facts, span = _said(tail[-footer:])
            except (pa.ArrowInvalid, ValueError, IndexError) as error:
                raise damaged(place, error) from error
            yield facts, None if span is None else (span["started"], span["finished"])


def _said(footer: bytes) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Facts and span in a part's footer."""
    facts, span = _value(footer, b"facet"), _value(footer, b"facet_work")
    if facts is None or not footer.endswith(b"PAR1"):
        # What Parquet's own reader finds, or refuses: it takes ten times as long.
        metadata = pq.read_metadata(io.BytesIO(footer)).metadata or {}
        facts, span = metadata.get(b"facet", b"{}"), metadata.get(b"facet_work")
    # As text: json looks through bytes for their encoding.
    return json.loads(facts.decode()), None if span is None else json.loads(span.decode())


def _value(footer: bytes, key: bytes) -> bytes | None:
    """What stands under a key of a Parquet footer; None where it is not found.

    A key and its value are the first two fields of a struct, both texts, in Thrift's compact
    protocol: a byte 0x18 each, a length in groups of seven bits, the lowest first, and the text.
    They stand behind all that columns hold, and JSON has no such byte.
    """
    before = b"\x18" + bytes([len(key)]) + key + b"\x18"
    at = footer.rfind(before) + len(before)
    if at < len(before):
        return None
    length = shift = 0
    while footer[at] & 0x80:
        length |= (footer[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    length |= footer[at] << shift
    return footer[at + 1 : at + 1 + length]


def finished_at(url: str) -> dict[int, float]:
    """When each finished shard's part was written, seconds since 1970: one listing."""
    found = urls.list_times(urls.join(url, LEDGER))
    return {int(m.group(1)): when for n, when in found.items() if (m := _PART.fullmatch(n))}


def read_part(url: str, shard: int, folder: str = LEDGER) -> pa.Table:
    """One finished shard's rows."""
    place = part_url(url, shard, folder)
    try:
        return pq.read_table(pa.BufferReader(urls.read_bytes(place)), schema=SCHEMA)
    except pa.ArrowInvalid as error:
        raise damaged(place, error) from error


def damaged(place: str, error: Exception) -> StoreError:
    """What is said of a part that cannot be parsed."""
    return StoreError(f"{place} is damaged: {error}. Delete it: its shard is then done again")


def read_ledger(url: str) -> pa.Table:
    """Every finished shard's rows, in image order."""
    shards = sorted(done_shards(url))
    if not shards:
        return SCHEMA.empty_table()
    import pyarrow.dataset as ds  # it brings pandas, which whoever asks what is done is spared

    fs, place = urls.filesystem(url)
    paths = [part_url(place, s) for s in shards]
    try:
        with urls.naming(urls.join(url, LEDGER), "read"):
            return ds.dataset(paths, schema=SCHEMA, format="parquet", filesystem=fs).to_table()
    except pa.ArrowInvalid as error:
        raise StoreError(f"a ledger part of {url} cannot be read: {error}") from error
