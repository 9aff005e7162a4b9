"""The files of arrays whose shards are written whole, encoded and decoded in one go.

zarr does the same through an event loop, with some hops between threads for every chunk: of small
shards that is most of what writing them takes. What is encoded here is what zarr writes, byte for
byte; only arrays that are cut and encoded as ``arrays.create_arrays`` does it are known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import google_crc32c
import numpy as np
from numcodecs.blosc import NOSHUFFLE, SHUFFLE, Blosc
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

Made = TypeVar("Made")
Place = tuple[int, ...]
TEXTS = VLenUTF8()
SHUFFLES = {"noshuffle": NOSHUFFLE, "shuffle": SHUFFLE}
NOT_THERE = 2**64 - 1  # in an index, of a chunk that is nothing but fill value
CHECKSUM = 4
# Chunks from so many bytes on are worth a thread each.
WORTH_A_THREAD = 2**17


@dataclass(frozen=True)
class Sharding:
    """How an array is cut along its first axis into shards, these into chunks, and how chunks are
    kept: compressed, each with a checksum, and an index of them at the end of the shard.

    Attributes
    ----------
    shape, shard, chunk : tuple of int
        Of the array; of a shard, as long as the array along all axes but the first; of a chunk.
    dtype : numpy.dtype or None
        Of floating point, its fill value NaN; None of texts, theirs empty.
    blosc : Blosc
    """

    shape: tuple[int, ...]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype | None
    blosc: Blosc

    def holds(self, start: int, stop: int) -> bool:
        """Whether rows ``start … stop-1`` are all that one shard holds."""
        rows = self.shard[0]
        return start % rows == 0 and stop == min(start + rows, self.shape[0])

    def key(self, start: int) -> str:
        """Where the shard that begins with a row is kept, below the array's chunks."""
        return "/".join([str(start // self.shard[0]), *["0"] * (len(self.shape) - 1)])

    def encode(self, values: NDArray) -> bytes | None:
        """A shard's file, given its rows; None where they are nothing but fill value.

        Parameters
        ----------
        values : (N, ...) ndarray
            All rows of the shard; of the last one of an array there may be fewer.
        """
        values = np.asarray(values, np.dtypes.StringDType() if self.dtype is None else self.dtype)
        places = _places(self._counts)
        index = np.full((*self._counts, 2), NOT_THERE, "<u8")
        parts, at = [], 0
        chunks = self._each(lambda place: self._encoded(values[self._window(place)]), places)
        for place, chunk in zip(places, chunks, strict=True):
            if chunk is not None:
                index[place] = at, len(chunk)
                parts.append(chunk)
                at += len(chunk)
        return b"".join([*parts, _checked(index.tobytes())]) if parts else None

    def decode(self, data: bytes | None, rows: int) -> NDArray:
        """The first rows of a shard's file; fill value where there is none.

        Raises
        ------
        ValueError
            If it is damaged.
        """
        shape = (rows, *self.shape[1:])
        texts = self.dtype is None
        out = np.full(shape, "", object) if texts else np.full(shape, np.nan, self.dtype)
        if data is None:
            return out
        whole = memoryview(data)
        size = 16 * math.prod(self._counts) + CHECKSUM
        index = np.frombuffer(_unchecked(whole[-size:]), "<u8").reshape(*self._counts, 2)

        def put(place: Place) -> None:
            start, length = map(int, index[place])
            if start != NOT_THERE:
                raw = self.blosc.decode(_unchecked(whole[start : start + length]))
                flat = TEXTS.decode(raw) if texts else np.frombuffer(raw, self.dtype)
                there = out[self._window(place)]
                there[...] = flat.reshape(self.chunk)[: len(there)]

        self._each(put, _places(self._counts))
        return out

    @property
    def _counts(self) -> Place:
        """Chunks of a shard along every axis."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    def _window(self, place: Place) -> tuple[slice, ...]:
        return tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, self.chunk, strict=True))

    def _encoded(self, values: NDArray) -> bytes | None:
        texts = self.dtype is None
        if (values == "" if texts else np.isnan(values)).all():
            return None
        if values.shape != self.chunk:
            chunk = np.full(self.chunk, "" if texts else np.nan, values.dtype)
            chunk[: len(values)] = values
            values = chunk
        raw = TEXTS.encode(values) if texts else np.ascontiguousarray(values).reshape(-1).view("B")
        return _checked(self.blosc.encode(raw))

    def _each(self, work: Callable[[Place], Made], places: Iterable[Place]) -> list[Made]:
        """In threads, where chunks are large: compressing lets others run."""
        size = math.prod(self.chunk) * (16 if self.dtype is None else self.dtype.itemsize)
        return list((_threads().map if size >= WORTH_A_THREAD else map)(work, places))


def find_sharding(metadata: Mapping[str, Any]) -> Sharding | None:
    """How an array is kept, by its metadata as zarr has them; None where this is another way."""
    data = json.loads(json.dumps(metadata))  # its tuples are lists
    try:
        (codec,) = data["codecs"]
        inside = codec["configuration"]
        blosc = inside["codecs"][1]["configuration"]
        shuffle = SHUFFLES[blosc["shuffle"]]
        shard = data["chunk_grid"]["configuration"]["chunk_shape"]
    except (KeyError, IndexError, ValueError, TypeError):
        return None
    little, checksum = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    texts = data["data_type"] == "string"
    first = {"name": "vlen-utf8", "configuration": {}} if texts else little
    ours = {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "" if texts else "NaN",
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": inside["chunk_shape"],
                    "codecs": [first, {"name": "blosc", "configuration": blosc}, checksum],
                    "index_codecs": [little, checksum],
                    "index_location": "end",
                },
            }
        ],
    }
    if any(data[name] != value for name, value in ours.items()) or data.get("storage_transformers"):
        return None
    if shard[1:] != data["shape"][1:]:
        return None
    return Sharding(
        tuple(data["shape"]),
        tuple(shard),
        tuple(inside["chunk_shape"]),
        None if texts else np.dtype(data["data_type"]).newbyteorder("<"),
        Blosc(**{**blosc, "shuffle": shuffle}),
    )


@lru_cache
def _places(counts: Place) -> list[Place]:
    """Chunks of a shard in the order that zarr writes them: along Morton's curve."""
    places = np.indices(counts).reshape(len(counts), -1).T
    code, bit = np.zeros(len(places), np.int64), 0
    bits = [(count - 1).bit_length() for count in counts]
    for level in range(max(bits)):
        for axis in (axis for axis, most in enumerate(bits) if level < most):
            code |= ((places[:, axis] >> level) & 1) << bit
            bit += 1
    return [tuple(place) for place in places[np.argsort(code)].tolist()]


def _checked(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(CHECKSUM, "little")


def _unchecked(data: memoryview) -> memoryview:
    kept = data[:-CHECKSUM]
    value = google_crc32c.value(np.frombuffer(kept, np.uint8))  # which takes no memoryview
    if value.to_bytes(CHECKSUM, "little") != data[-CHECKSUM:]:
        raise ValueError("a checksum is not that of its chunk")
    return kept


@lru_cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="chunks")
