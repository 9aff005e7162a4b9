"""Partial sums on their way to correlations: merged, then finalised; run as tasks."""

from __future__ import annotations

from collections.abc import Iterable

from storage.errors import FacetError
from storage.rosetta import (
    Card,
    Span,
    Tile,
    done_spans,
    outermost,
    read_sums,
    remove_spans,
    write_correlations,
    write_sums,
)

from .sums import Layout, Sums, combine, finalize


def total(url: str, layout: Layout, tile: Tile, spans: Iterable[Span]) -> Sums:
    """The sums of several spans, merged in their order."""
    merged: Sums | None = None
    for span in sorted(spans):
        sums = Sums(**read_sums(url, tile, span))
        if merged is None:
            merged = sums
        else:
            combine(layout, merged, sums)
    if merged is None:
        raise FacetError(f"{url} has no sums of {tile.pair}: run the job again")
    return merged


def merge_spans(url: str, a: Card, b: Card, tile: Tile, group: list[Span]) -> None:
    """Write the sums of a group of neighbouring spans as one, then remove them."""
    whole = group[0][0], group[-1][1]
    if whole not in done_spans(url, tile):  # else a worker that died was already removing them
        merged = total(url, Layout(a, b, tile), tile, group)
        write_sums(url, tile, whole, merged.arrays())
    remove_spans(url, tile, group)


def correlate_tile(url: str, a: Card, b: Card, tile: Tile) -> None:
    """Write a tile's correlations from all its sums."""
    layout = Layout(a, b, tile)
    sums = total(url, layout, tile, outermost(done_spans(url, tile)))
    even, odd = sums.n.tolist()
    if not even or not odd:
        raise FacetError(
            f"{even} even and {odd} odd images could be read: units are correlated over images, "
            "and in both halves; give more images"
        )
    write_correlations(url, tile, finalize(layout, sums).arrays())
