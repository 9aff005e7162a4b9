"""Covariances between the heads of two models, and moments of their embeddings, in one scan.

A state holds each side's moments and the sums of products between the sides, all about the means
of what was seen; states of disjoint images merge in any order, as in ``stats.moments``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.stats.moments import Moments, chunk, combine, empty
from pipeline.subsets import shard_rows
from storage import urls
from storage.layout import CONTRIBUTIONS
from storage.metadata import Metadata
from storage.store import Store, open_store

from .common import PARTS, ok_rows, part_of

# Bytes of the products between two sides that one state may hold: larger models are gone through
# several times, some of their layers at a time.
CROSS_BYTES = 128 << 20
# Values of both sides that are held at once, in float64.
_VALUES = 1 << 23


@dataclass(frozen=True)
class Block:
    """Layers whose heads are crossed in one scan.

    Attributes
    ----------
    source, target : tuple of int
        Layers of `from` and of `to`.
    embeddings : bool
        Whether moments of the embeddings are gathered, too.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    embeddings: bool


@dataclass(frozen=True, eq=False)
class Crossed:
    """What is kept of the images seen so far; float64, contributions on the published scale.

    Attributes
    ----------
    source, target : Moments
        Of the heads of each side, (P, K) and (Q, K') with their covariances.
    cross : (P * K, Q * K')
        Sums of products of the centred rows.
    embeddings : tuple of Moments
        Of both unit embeddings side by side, (E + E'), by part: see ``part_of``.
    absent, lost : int
        Images of the subset that are not in `from`; that are there, and bad or not finished.
    """

    source: Moments
    target: Moments
    cross: NDArray[np.float64]
    embeddings: tuple[Moments, ...]
    absent: int
    lost: int


def blocks(
    source: Metadata, target: Metadata, from_layers: Sequence[int], to_layers: Sequence[int]
) -> list[Block]:
    """Scans that cross all layers with all, each within ``CROSS_BYTES`` (a pair of layers is the
    least)."""
    pairs = max(1, CROSS_BYTES // cross_bytes(source, target, 1, 1))
    wide = min(pairs, len(to_layers))
    high = max(1, pairs // wide)
    return [
        Block(tuple(from_layers[i : i + high]), tuple(to_layers[j : j + wide]), i == j == 0)
        for i in range(0, len(from_layers), high)
        for j in range(0, len(to_layers), wide)
    ]


def cross_bytes(source: Metadata, target: Metadata, from_layers: int, to_layers: int) -> int:
    """Bytes of the products between so many layers of each side."""
    sides = ((source, from_layers), (target, to_layers))
    rows, columns = (n * meta.heads * meta.head_dim for meta, n in sides)
    return 8 * rows * columns


def state_bytes(source: Metadata, target: Metadata, block: Block) -> int:
    """Bytes of one state."""
    own = sum(
        n * meta.heads * meta.head_dim * (meta.head_dim + 1)
        for meta, n in ((source, len(block.source)), (target, len(block.target)))
    )
    both = (source.embed + target.embed) ** 2 * PARTS if block.embeddings else 0
    return cross_bytes(source, target, len(block.source), len(block.target)) + 8 * (own + both)


def shard_state(
    from_url: str,
    to_url: str,
    where: str | None,
    block: Block,
    rows: NDArray[np.int64],
    shard: int,
) -> Crossed:
    """State of one shard of `to`; ``rows`` are its images' rows in `from`."""
    source, target = open_store(from_url), open_store(to_url)
    table, chosen = shard_rows(target, shard, where)
    start, _ = target.meta.rows(shard)
    numbers = start + np.flatnonzero(chosen)
    there = rows[numbers]
    usable = ok_rows(source, there)
    state = _nothing(source.meta, target.meta, block)
    absent = int((there < 0).sum())
    state = _counted(state, absent, len(there) - absent - int(usable.sum()))
    parts = part_of(table["key"].to_pylist())[usable]
    numbers, there = numbers[usable], there[usable]
    groups = [urls.open_group(urls.join(s.data, CONTRIBUTIONS), mode="r") for s in (source, target)]
    width = _width(source.meta, len(block.source)) + _width(target.meta, len(block.target))
    step = max(1, _VALUES // width)
    for first in range(0, len(numbers), step):
        at = slice(first, first + step)
        sides = (
            _Rows(source, groups[0], block.source, there[at]),
            _Rows(target, groups[1], block.target, numbers[at]),
        )
        state = merge([state, _of_rows(block, *sides, parts[at])])
    return state


def merge(states: Sequence[Crossed]) -> Crossed:
    """Combine states of disjoint images."""
    total = states[0]
    for state in states[1:]:
        total = _merged(total, state)
    return total


def _merged(a: Crossed, b: Crossed) -> Crossed:
    cross, n = a.cross + b.cross, a.source.n + b.source.n
    if a.source.n and b.source.n:
        apart = [(y.mean - x.mean).ravel() for x, y in zip(_sides(a), _sides(b), strict=True)]
        cross += np.outer(apart[0] * (a.source.n / n * b.source.n), apart[1])
    return Crossed(
        combine([a.source, b.source]),
        combine([a.target, b.target]),
        cross,
        tuple(combine(pair) for pair in zip(a.embeddings, b.embeddings, strict=True)),
        a.absent + b.absent,
        a.lost + b.lost,
    )


def _sides(state: Crossed) -> tuple[Moments, Moments]:
    return state.source, state.target


def _counted(state: Crossed, absent: int, lost: int) -> Crossed:
    return Crossed(state.source, state.target, state.cross, state.embeddings, absent, lost)


def _width(meta: Metadata, layers: int) -> int:
    return layers * meta.heads * meta.head_dim


def _nothing(source: Metadata, target: Metadata, block: Block) -> Crossed:
    sides = [
        empty((layers * meta.heads, meta.head_dim))
        for meta, layers in ((source, len(block.source)), (target, len(block.target)))
    ]
    both = empty((source.embed + target.embed,))
    cross = np.zeros((sides[0].mean.size, sides[1].mean.size))
    return Crossed(sides[0], sides[1], cross, (both,) * PARTS if block.embeddings else (), 0, 0)


class _Rows:
    """Rows of one side: its heads' factors over the image's scale, and its unit embeddings."""

    def __init__(
        self, store: Store, group: zarr.Group, layers: tuple[int, ...], rows: NDArray[np.int64]
    ) -> None:
        at = _selection(rows)
        embedding = np.asarray(_array(group, "embedding").oindex[at]).astype(np.float64)
        norm = np.linalg.norm(embedding, axis=1)
        scale = norm * np.asarray(_array(group, "ln_std").oindex[at])
        heads = np.asarray(_array(group, "heads").oindex[at, _selection(np.array(layers))])
        factors_npk = heads.reshape(len(rows), -1, store.meta.head_dim).astype(np.float64)
        self.moments = chunk(factors_npk, scale=scale)  # refuses what is not finite
        self.centred_nc = (factors_npk / scale[:, None, None] - self.moments.mean).reshape(
            len(rows), -1
        )
        self.unit_ne = embedding / norm[:, None]


def _selection(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Rows as a slice where they are neighbours: then no more is read than they are."""
    first, last = int(rows[0]), int(rows[-1])
    neighbours = last - first + 1 == len(rows) and bool((np.diff(rows) == 1).all())
    return slice(first, last + 1) if neighbours else rows


def _array(group: zarr.Group, name: str) -> zarr.Array:
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


def _of_rows(block: Block, source: _Rows, target: _Rows, parts: NDArray[np.int64]) -> Crossed:
    embeddings: tuple[Moments, ...] = ()
    if block.embeddings:
        both = np.concatenate([source.unit_ne, target.unit_ne], axis=1)
        embeddings = tuple(chunk(both[parts == part]) for part in range(PARTS))
    return Crossed(
        source.moments, target.moments, source.centred_nc.T @ target.centred_nc, embeddings, 0, 0
    )
