"""Whether a source still holds the images that a store was made from.

A listing tells images by key, length, label and caption. The ledger keeps the sha256 of every
image, so a sample of a store's images is read again whenever a run meets a store that stands;
of rows that only their file tells apart, all are read again where that file has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.images.again import OTHER, digests
from pipeline.images.tars import keys_past_dots
from storage import ledger
from storage.errors import FacetError, StoreMismatch
from storage.images import move_images, read_rows
from storage.layout import ROWS_PER_IMAGE_PART

from .growth import PLACES, KnownImages

SAMPLE = 32
READ_AT_ONCE = 1024  # rows that one task reads of many
SHOWN = 3
REMEDY = (
    "Images may be added to a source, not changed or taken away: give the run another {place}, or "
    "the images that this one was made from."
)
Mapper = Callable[..., Iterable[Any]]
NO_KEYS = (
    "Rows without keys are told apart by their file alone: give the table a column called key, or "
    "put new rows into a file of their own."
)
TAR_KEYS = (
    "Keys of a tar's samples end at the first dot of a name, and went on to the last when this was "
    "made: it can be read as it is, but what is added to such tars needs another place."
)


@dataclass
class Held:
    """What came of images that were read again.

    Attributes
    ----------
    same : int
    changed : list of str
        Keys of images whose bytes are others.
    unreadable : dict of str to str
        Why images cannot be read, by key.
    unknown : list of str
        Keys of images that the ledger says nothing of: their shards are not finished.
    """

    same: int = 0
    changed: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def sample(url: str, images: int, shard_size: int) -> NDArray[np.int64]:
    """Images that the ledger knows, spread evenly, the first and the last among them."""
    shards = np.array(
        sorted(s for s in ledger.done_shards(url) if s * shard_size < images), np.int64
    )
    if not len(shards):
        return shards
    # Only the store's last shard may be short.
    last = min((int(shards[-1]) + 1) * shard_size, images) - int(shards[-1]) * shard_size
    at = spread((len(shards) - 1) * shard_size + last)
    return shards[at // shard_size] * shard_size + at % shard_size


def spread(total: int) -> NDArray[np.int64]:
    """At most ``SAMPLE`` of ``total`` places, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(SAMPLE, total)).round().astype(np.int64))


def hold(url: str, shard_size: int, rows: pa.Table, mapper: Mapper = map, at_once: int = 1) -> Held:
    """Read images again and hold them against the ledger.

    Parameters
    ----------
    url : str
        Where the ledger is.
    shard_size : int
    rows : pyarrow.Table
        ``index``, ``key``, ``uri``, ``offset``, ``length``, by index.
    mapper : callable
        ``map``, or one like it, to read in parallel.
    at_once : int
        Rows that one task reads.
    """
    held, done = Held(), ledger.done_shards(url)
    if not len(rows):
        return held
    index = np.asarray(rows["index"])
    wanted: list[str | None] = []
    shards, first = np.unique(index // shard_size, return_index=True)
    for shard, here in zip(shards, np.split(index, first[1:]), strict=True):
        if int(shard) not in done:
            wanted += [""] * len(here)
            continue
        part = ledger.read_part(url, int(shard))
        at = pc.index_in(pa.array(here), value_set=part["index"].combine_chunks())
        wanted += part["sha256"].take(at).to_pylist()
    keys = rows["key"].to_pylist()
    held.unknown = [key for key, sha256 in zip(keys, wanted, strict=True) if sha256 == ""]
    # Bad images of which nothing was read have no sha256, and are held against nothing.
    todo = [i for i, sha256 in enumerate(wanted) if sha256]
    chunks = [todo[i : i + at_once] for i in range(0, len(todo), at_once)]
    tables = [rows.take(pa.array(chunk)) for chunk in chunks]
    for chunk, found in zip(chunks, mapper(digests, tables), strict=True):
        for i, (sha256, why) in zip(chunk, found, strict=True):
            if why is not None:
                held.unreadable[keys[i]] = why
            elif sha256 != wanted[i]:
                held.changed.append(keys[i])
            else:
                held.same += 1
    return held


def settle(
    url: str,
    images: int,
    shard_size: int,
    known: KnownImages,
    source: str,
    *,
    place: str,
    must_read: bool,
    mapper: Mapper = map,
) -> list[str]:
    """Refuse a source that no longer holds the images of a store; note where they lie now.

    Parameters
    ----------
    url : str
        Of the image table and the ledger.
    images, shard_size : int
        Of the store.
    known : KnownImages
        Made with ``sample``, after the source was listed through it.
    source : str
        Its name, for messages.
    place : str
        The option that names ``url``.
    must_read : bool
        Whether images are to be read after this: those of a finished store may be gone.
    mapper : callable
        ``map``, or one like it, to read in parallel.

    Returns
    -------
    list of str
        What the user should know, a line each.

    Raises
    ------
    StoreMismatch
        If images are listed no more or with other facts, have other bytes, or cannot be told
        to be the same.
    """
    facts = []
    if known.missing:
        facts.append(f"{known.missing:,} of its {images:,} images are not listed")
        if keys_past_dots(read_rows(url, 0, min(images, ROWS_PER_IMAGE_PART))):
            facts.append(TAR_KEYS)
    if known.changed:
        facts.append(
            f"{len(known.changed):,} are listed with other contents ({_some(known.changed)})"
        )
    _refuse(url, source, place, facts)
    moved = _joined(known.moved)
    # What moved is looked at even where the sample has none of it.
    rows = _joined([*known.sampled, moved.take(pa.array(spread(len(moved))))])
    held = hold(url, shard_size, rows, mapper)
    looked_at = held.same + len(held.changed) + len(held.unreadable)
    if held.changed:
        facts.append(
            f"{len(held.changed):,} of {looked_at:,} that were read again have other contents "
            f"({_some(held.changed)})"
        )
        if known.remade:
            facts.append(NO_KEYS)
    gone = f"{len(held.unreadable):,} of {looked_at:,} that were read again cannot be read"
    if held.unreadable:
        gone += f" ({next(iter(held.unreadable.values()))})"
        if must_read and not held.same:
            facts.append(gone)
    _refuse(url, source, place, facts)
    remade = _joined(known.remade)
    if len(remade):
        _refuse(
            url,
            source,
            place,
            _unproven(remade, hold(url, shard_size, remade, mapper, READ_AT_ONCE)),
        )
    if len(moved):
        move_images(url, moved.drop_columns(["key", "length"]))
    notes = [f"images of the store: {gone}"] if held.unreadable else []
    if len(moved):
        notes.append(
            f"{len(moved):,} images of the store lie elsewhere now: its image table follows"
        )
    return notes


def _unproven(rows: pa.Table, held: Held) -> list[str]:
    """Why rows of files that have changed cannot be taken for the rows that they were."""
    files = [uri.rpartition("#")[0] for uri in pc.unique(rows["uri"]).to_pylist()]
    other = [
        f"{len(held.changed):,} have other contents ({_some(held.changed)})",
        f"{len(held.unreadable):,} cannot be read ({_some(list(held.unreadable))})",
        f"{len(held.unknown):,} are in no finished shard, so that nothing says what they were "
        f"({_some(held.unknown)})",
    ]
    counts = (held.changed, held.unreadable, held.unknown)
    why = [line for line, found in zip(other, counts, strict=True) if found]
    if not why:
        return []
    return [f"{_some(files)}: written anew, and of {len(rows):,} rows {'; '.join(why)}", NO_KEYS]


def _refuse(url: str, source: str, place: str, facts: list[str]) -> None:
    if facts:
        lines = "\n  ".join([f"{url} was made from other images than {source} holds now:", *facts])
        raise StoreMismatch(f"{lines}\n{REMEDY.format(place=place)}")


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Rows in the order of the store, each once."""
    if not tables:
        return PLACES.empty_table()
    table = pa.concat_tables(tables)
    first = np.unique(table["index"].to_numpy(), return_index=True)[1]
    return table.take(pa.array(first))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def refuse_changed(known: pa.Table, found: pa.Table, keys: list[str], made: str) -> None:
    """Refuse images that are not what the ledger says, of those that it calls ok.

    Parameters
    ----------
    known : pyarrow.Table
        Rows of the ledger.
    found : pyarrow.Table
        ``ok``, ``sha256`` and ``error`` of the same images, as just read.
    keys : list of str
        Theirs.
    made : str
        When they were what the ledger says, for the message.

    Raises
    ------
    FacetError
        Naming the first of them.
    """
    ok, still = (np.asarray(t["ok"].to_numpy(zero_copy_only=False)) for t in (known, found))
    kept, read = (np.array(t["sha256"].to_pylist(), object) for t in (known, found))
    bad = ok & ~(still & (kept == read))
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        why = found["error"][at].as_py() or OTHER
        raise FacetError(
            f"image {known['index'][at].as_py()} ({keys[at]}) is not what it was when {made}: "
            f"{why}. {int(bad.sum())} of {len(bad)} images near it are so; mend the source, or "
            "give a new place for what is made of it"
        )
