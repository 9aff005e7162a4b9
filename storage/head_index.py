"""``index.zarr``: contributions part by part, made for search. One array a part.

A part is a head, a block or the embedding; its array holds the coordinates of every image, and
says all else of itself in its own metadata, which is one object: it is put whole, after the rows
that it counts. So parts are made, lengthened and gone on with one by one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from . import urls
from .errors import Remedy, StoreError
from .layout import BLOCKS, EMBEDDING, HEADS, INDEX, index_array, part_numbers
from .metadata import Metadata
from .records import of_json
from .reductions import as_spans
from .tables import StoreTables

# A part is made anew once its chunks would be so many times as long.
OUTGROWN = 8


@dataclass(frozen=True)
class PartFacts:
    """What a part says of itself.

    Coordinates are ``offset + unit · row``, so that rounding is small beside what differs.

    Attributes
    ----------
    store : str
        Digest of the metadata of the store.
    unit : float
        A power of two.
    offset : list of float
        Fixed when the part is made: about the mean.
    run : int
        Shards whose rows are one chunk.
    shards : list of (first, last)
        Spans of shards whose rows count.
    count : int
        Rows that hold values.
    total : list of float
        Their sum, as kept.
    """

    store: str
    unit: float
    offset: list[float]
    run: int
    shards: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0
    total: list[float] = field(default_factory=list)

    def counted(self) -> set[int]:
        """Shards whose rows count."""
        return {s for a, b in self.shards for s in range(a, b + 1)}

    def mean(self) -> NDArray[np.float64]:
        """Mean coordinates of the images that count."""
        total = np.array(self.total) if self.count else np.zeros(len(self.offset))
        return np.array(self.offset) + self.unit * total / max(self.count, 1)

    def with_rows(self, shards: Iterable[int], rows: NDArray) -> PartFacts:
        """With further shards and all their rows, as kept; NaN in those without values."""
        count, total = sums(rows)
        return self.added(shards, count, total)

    def added(self, shards: Iterable[int], count: int, total: NDArray) -> PartFacts:
        """With further shards, the number of their rows and the sum of these."""
        before = np.array(self.total) if self.count else np.zeros(len(self.offset))
        return replace(
            self,
            shards=as_spans(self.counted() | set(shards)),
            count=self.count + count,
            total=(before + total).tolist(),
        )

    def without(self, shards: Collection[int], rows: NDArray) -> PartFacts:
        """Without some shards, whose rows are these."""
        count, total = sums(rows)
        left = np.array(self.total) - total if self.count else np.array(self.total)
        return replace(
            self,
            shards=as_spans(self.counted() - set(shards)),
            count=self.count - count,
            total=left.tolist(),
        )


def sums(rows: NDArray) -> tuple[int, NDArray[np.float64]]:
    """Number and sum of the rows that hold values."""
    kept = rows[np.isfinite(rows[:, 0])]
    return len(kept), kept.sum(0, dtype=np.float64)


def run_of(meta: Metadata) -> int:
    """Shards whose rows are one chunk of a part that is made now."""
    return index_array(meta, EMBEDDING).chunks[0] // meta.shard_size


def part_url(url: str, part: str) -> str:
    """Where a part of a store's index is."""
    return urls.join(url, INDEX, part)


def kept_parts(url: str) -> list[str]:
    """Names of the parts that there are, of whatever store."""
    found = []
    for name in urls.list_names(urls.join(url, INDEX)):
        if name == EMBEDDING:
            found.append(name)
        elif name in (HEADS, BLOCKS):
            inner = urls.list_names(urls.join(url, INDEX, name))
            found += [f"{name}/{one}" for one in inner if one[:1].isdecimal()]
    return sorted(found, key=lambda part: (part.partition("/")[0], part_numbers(part)))


def _read(url: str, part: str) -> tuple[dict[str, Any], PartFacts] | None:
    """A part's metadata as it stands, and what it says of itself; None where there is none."""
    (raw,) = urls.read_each([urls.join(part_url(url, part), "zarr.json")])
    return None if raw is None else _parsed(url, part, raw)


def _parsed(url: str, part: str, raw: bytes) -> tuple[dict[str, Any], PartFacts]:
    try:
        document = json.loads(raw)
        return document, of_json(PartFacts, document["attributes"]["facet"], part_url(url, part))
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(url, part, error) from error


def all_parts(url: str) -> dict[str, PartFacts | StoreError]:
    """What every part there is says of itself, of whatever store, or why it cannot be read."""
    parts = kept_parts(url)
    places = [urls.join(part_url(url, part), "zarr.json") for part in parts]
    found: dict[str, PartFacts | StoreError] = {}
    for part, raw in zip(parts, urls.read_each(places) if places else [], strict=True):
        if raw is not None:  # else it is just being made
            try:
                found[part] = _parsed(url, part, raw)[1]
            except StoreError as error:
                found[part] = error
    return found


def damaged(url: str, part: str, error: object) -> StoreError:
    """What is said of a part that cannot be read."""
    settings = _settings([part])
    return StoreError(
        f"{part_url(url, part)} is damaged ({error}). Remove it, and it is made anew",
        Remedy.anew("index", url, **settings),
    )


def _put(url: str, part: str, document: dict[str, Any]) -> None:
    place = urls.join(part_url(url, part), "zarr.json")
    urls.put_bytes(place, json.dumps(document).encode())


def find_part(url: str, meta: Metadata, part: str) -> PartFacts | None:
    """What a part of this very store says of itself; None where there is none.

    Nor is one there whose chunks are too small by far for what the store has become.
    """
    found = _read(url, part)
    if found is None or found[1].store != meta.digest():
        return None
    return found[1] if found[1].run * OUTGROWN > run_of(meta) else None


def create_part(url: str, meta: Metadata, part: str, facts: PartFacts) -> None:
    """Make a part without rows, in place of what was there; the driver alone calls this."""
    spec = index_array(meta, part)
    urls.remove(part_url(url, part))
    folder, _, name = part.rpartition("/")
    place = urls.join(url, INDEX)
    for outer in [place, urls.join(place, folder)] if folder else [place]:
        zarr.open_group(urls.zarr_store(outer, read_only=False), mode="a", zarr_format=3)
    outer = urls.join(place, folder) if folder else place
    group = zarr.open_group(urls.zarr_store(outer, read_only=False), mode="r+", zarr_format=3)
    group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        fill_value=np.nan,
        # What is read from end to end, again and again, is not unpacked each time.
        compressors=[Crc32cCodec()],
        dimension_names=spec.dims,
        # By the CF conventions: coordinates less the offset.
        attributes={"scale_factor": facts.unit, "facet": _json(facts)},
        # A chunk that is not there is one that was lost.
        config={"write_empty_chunks": True},
    )


def write_facts(url: str, meta: Metadata, part: str, facts: PartFacts) -> None:
    """Have a part say this of itself, and be as long as the store."""
    found = _read(url, part)
    if found is None:
        raise StoreError(f"{part_url(url, part)} is gone: nothing may be removed meanwhile")
    document = found[0]
    document["shape"][0] = meta.images
    document["attributes"]["facet"] = _json(facts)
    _put(url, part, document)


def _json(facts: PartFacts) -> dict[str, Any]:
    return {**vars(facts), "shards": [list(span) for span in facts.shards]}


def forget_shards(url: str, meta: Metadata, shards: Collection[int]) -> None:
    """Have no part count some shards, whose rows are about to change, or have changed.

    Parameters
    ----------
    url : str
    meta : Metadata
        Of the store as it is, or was before it grew.
    shards : collection of int
    """
    for part in kept_parts(url):
        found = _read(url, part)
        if found is None or not (again := sorted(found[1].counted() & set(shards))):
            continue
        document, facts = found
        array = open_array(url, part)
        for shard in again:
            start = shard * meta.shard_size
            rows = read_rows(url, part, array, start, start + meta.shard_size)
            facts = facts.without([shard], rows)
        document["attributes"]["facet"] = _json(facts)
        _put(url, part, document)


def carry_over(url: str, before: Metadata, after: Metadata) -> None:
    """Keep the index of a store that has grown: its rows are what they were."""
    for part in kept_parts(url):
        found = _read(url, part)
        if found is not None and found[1].store == before.digest():
            write_facts(url, after, part, replace(found[1], store=after.digest()))


def open_array(url: str, part: str, mode: str = "r") -> zarr.Array:
    """The array of a part that is there."""
    try:
        store = urls.zarr_store(part_url(url, part), read_only=mode == "r")
        return zarr.open_array(store, mode=mode, zarr_format=3)
    except FileNotFoundError as error:
        raise StoreError(
            f"no index of {part} at {url}", Remedy.first("index", url, **_settings([part]))
        ) from error


def read_rows(url: str, part: str, array: zarr.Array, start: int, stop: int) -> NDArray[np.float16]:
    """Rows as they are kept; ``StoreError`` where they are damaged."""
    try:
        return np.asarray(array[start:stop])
    except ValueError as error:  # of a checksum
        raise damaged(url, part, error) from error


def open_parts(store: StoreTables, parts: Iterable[str]) -> dict[str, PartFacts]:
    """Parts of a store's index, which hold every image of the store that is finished.

    Raises
    ------
    StoreError
        If one is not there, is of another store or of fewer shards, or is damaged.
    """
    done, found, lacking = store.done_shards(), {}, []
    for part in parts:
        kept = _read(store.url, part)
        if kept is None:
            lacking.append(part)
            continue
        facts = kept[1]
        settings = _settings([part])
        if facts.store != store.meta.digest():
            raise StoreError(
                f"the index of {part} at {store.url} is of another store than the one that is "
                "there now, or of what it was before",
                Remedy.anew("index", store.url, **settings),
            )
        if missing := done - facts.counted():
            raise StoreError(
                f"the index of {part} at {store.url} lacks {len(missing):,} of {len(done):,} "
                "finished shards: it was not finished, or the store has grown",
                Remedy.anew("index", store.url, **settings),
            )
        found[part] = facts
    if lacking:
        raise StoreError(
            f"no index of {', '.join(lacking[:5])}{' …' if len(lacking) > 5 else ''} at "
            f"{store.url}",
            Remedy.first("index", store.url, **_settings(lacking)),
        )
    return found


def _settings(parts: Iterable[str]) -> dict[str, Any]:
    """The settings by which parts are asked for."""
    chosen: dict[str, Any] = {}
    for kind, setting in ((HEADS, "layers"), (BLOCKS, "blocks")):
        numbers = {part_numbers(part)[0] for part in parts if part.startswith(f"{kind}/")}
        if numbers:
            chosen[setting] = ",".join(map(str, sorted(numbers)))
    return chosen | ({"embedding": True} if EMBEDDING in parts else {})
