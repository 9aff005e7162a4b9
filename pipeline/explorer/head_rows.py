"""What one head wrote of the images of a store, run by run, from its index or the store itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import NotHere, Opened
from pipeline.search.coordinates import PartCoordinates
from pipeline.subsets import spread
from storage import head_index, urls
from storage.errors import StoreError
from storage.layout import CONTRIBUTIONS, head_part

# Images that are read of a store without an index, about: a layer is read whole for one head.
MOST = 32_768
# Images of one run, there.
RUN = 4096


@dataclass(frozen=True, eq=False)
class HeadRows:
    """Where to read what one head wrote, on the published scale; see `Coordinates`.

    Attributes
    ----------
    here : Opened
    layer, head : int
    map_ke : (K, E) float32
    coordinates : PartCoordinates
        Of the rows.
    facts : PartFacts or None
        Of the index; None where the rows come from the contributions.
    runs : tuple of (start, stop)
        Images that are read at once, rising: all of finished shards.
    """

    here: Opened
    layer: int
    head: int
    map_ke: NDArray[np.float32]
    coordinates: PartCoordinates
    facts: head_index.PartFacts | None
    runs: tuple[tuple[int, int], ...]

    def fewer(self, most: int) -> tuple[tuple[int, int], ...]:
        """Runs spread evenly, of about so many images."""
        size = max((stop - start for start, stop in self.runs), default=1)
        at = spread(range(len(self.runs)), max(1, most // size))
        return tuple(self.runs[i] for i in at)

    def read(
        self, runs: Sequence[tuple[int, int]] | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The first image of every run and its rows, (n, r); NaN of images that are not ok."""
        read = self._from_index if self.facts is not None else self._from_contributions
        return read(self.runs if runs is None else runs)

    def _from_index(
        self, runs: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        assert self.facts is not None
        url, part = self.here.url, head_part(self.layer, self.head)
        array = head_index.open_array(url, part)
        unit, offset_r = np.float32(self.facts.unit), np.array(self.facts.offset, np.float32)
        for start, stop in runs:
            rows = head_index.read_rows(url, part, array, start, stop).astype(np.float32)
            rows *= unit
            rows += offset_r
            yield start, rows

    def _from_contributions(
        self, runs: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        data: Any = urls.open_group(urls.join(self.here.store.data, CONTRIBUTIONS), mode="r")
        for start, stop in runs:
            embedding, ln_std, heads = (data[n] for n in ("embedding", "ln_std", "heads"))
            norm_b = np.linalg.norm(np.asarray(embedding[start:stop], np.float64), axis=1)
            scale_b = np.asarray(ln_std[start:stop], np.float64) * norm_b
            values_bk = np.asarray(heads[start:stop, self.layer, self.head])
            yield start, self.coordinates.rows(values_bk, scale_b)


def head_rows(here: Opened, layer: int, head: int) -> HeadRows:
    """What there is to read of a head: of all images from an index, else of about ``MOST``.

    Raises
    ------
    NotHere
        If there is no such head.
    """
    refuse_head(here, layer, head)
    store, meta, part = here.store, here.meta, head_part(layer, head)
    map_ke = np.asarray(store.model()["head_map"].values[layer, head])
    facts = None
    with suppress(StoreError):  # there is none, or it lacks images: whoever shows points says so
        facts = head_index.open_parts(store, [part])[part]
    at_once = facts.run if facts else max(1, RUN // meta.shard_size)
    runs: list[tuple[int, int]] = []
    for shard in sorted(store.done_shards()):
        start, stop = meta.rows(shard)
        if runs and runs[-1][1] == start and shard % at_once:
            runs[-1] = runs[-1][0], stop
        else:
            runs.append((start, stop))
    found = HeadRows(here, layer, head, map_ke, PartCoordinates.of_map(map_ke), facts, tuple(runs))
    if facts:
        return found
    return HeadRows(here, layer, head, map_ke, found.coordinates, None, found.fewer(MOST))


def refuse_head(here: Opened, layer: int, head: int) -> None:
    """Refuse a head that the model does not have, or a store that keeps none.

    Raises
    ------
    NotHere
    """
    meta = here.meta
    if not meta.heads:
        raise NotHere(f"there are no heads: the model of {here.name} has no attention")
    if not (0 <= layer < meta.layers and 0 <= head < meta.heads):
        raise NotHere(
            f"there is no head {layer}.{head}: the model of {here.name} has heads 0.0 to "
            f"{meta.layers - 1}.{meta.heads - 1}"
        )
    if "heads" not in meta.components:
        raise NotHere(f"{here.name} keeps no heads: it was extracted without them")


def head_of(address: str) -> tuple[int, int]:
    """Layer and head of an address such as ``3.0``.

    Raises
    ------
    NotHere
        If it is none.
    """
    layer, dot, head = address.partition(".")
    numbers = [n for n in (layer, head) if n.isascii() and n.isdecimal() and len(n) < 6]
    if not dot or len(numbers) < 2:
        raise NotHere(f"{address[:20]!r} is no head: write LAYER.HEAD, such as 3.0")
    return int(layer), int(head)
