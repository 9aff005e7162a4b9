"""Counts of some shards, kept beside what will be the result until the others are counted."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.provenance import revision
from pipeline.stats.moments import Moments
from storage import urls

from .over import Side, Sides
from .precision import Precision, Sums
from .subset import Counts

# Of the result's place.
FILE = "counted.npz"


def write(place: str, shards: Collection[int], counts: Counts) -> None:
    """Keep the counts of some shards, whole or not at all; ``place`` is the result's."""
    arrays = dict(_flat(counts))
    buffer = io.BytesIO()
    np.savez(buffer, shards=sorted(shards), revision=revision(), **arrays)
    urls.put_bytes(urls.join(place, FILE), buffer.getvalue())


def read(place: str) -> tuple[set[int], Counts | None]:
    """Shards that were counted by this very code, and their counts; none where there are none."""
    (content,) = urls.read_each([urls.join(place, FILE)])
    if content is None:
        return set(), None
    with np.load(io.BytesIO(content)) as arrays:
        if arrays["revision"] != revision():
            return set(), None
        return set(arrays["shards"].tolist()), _counts({n: arrays[n] for n in arrays.files})


def remove(place: str) -> None:
    """Once the result is there."""
    urls.remove(urls.join(place, FILE))


def _flat(counts: Counts) -> Iterator[tuple[str, Any]]:
    for method, sides in counts.over.items():
        for name in ("inside", "outside"):
            side: Side = getattr(sides, name)
            scores = side.scores
            for kind, value in zip(
                _SIDE, (scores.n, scores.mean, scores.m2, side.first_m), strict=True
            ):
                yield f"over/{method}/{name}/{kind}", value
    if counts.precision is not None:
        yield "images", counts.precision.images
        for of in _PRECISION:
            for series, sums in getattr(counts.precision, of).items():
                for field in fields(Sums):
                    yield f"{of}/{series}/{field.name}", getattr(sums, field.name)


_SIDE = ("n", "mean", "m2", "first")
_PRECISION = ("of", "more", "values")


def _counts(arrays: dict[str, Any]) -> Counts:
    def side(method: str, name: str) -> Side:
        n, mean, m2, first = (arrays[f"over/{method}/{name}/{kind}"] for kind in _SIDE)
        return Side(Moments(int(n), mean, m2), first)

    methods = _second(arrays, "over")
    sides = {m: Sides(side(m, "inside"), side(m, "outside")) for m in methods}
    if "images" not in arrays:
        return Counts(sides, None)
    sums = (
        {
            series: Sums(*(arrays[f"{kind}/{series}/{field.name}"] for field in fields(Sums)))
            for series in _second(arrays, kind)
        }
        for kind in _PRECISION
    )
    return Counts(sides, Precision(int(arrays["images"]), *sums))


def _second(names: Iterable[str], first: str) -> list[str]:
    """Second parts of names that begin so, each once, in their order."""
    parts = [name.split("/") for name in names]
    return list(dict.fromkeys(part[1] for part in parts if part[0] == first))
