"""What is kept of units shared between models: identity, layout, partial sums.

The law of it is the section "Rosetta" of ``SCHEMA.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from . import urls
from .arrays import consolidate, open_dataset, refuse_not_finite, write_dataset
from .errors import StoreError, StoreMismatch
from .layout import SETUP
from .records import of_json

SCHEMA_VERSION = 1
MODELS = "models"
SUMS = "sums"
CORRELATIONS = "correlations.zarr"

# Even and odd images are summed apart: a match is to be found in both.
HALVES = ("even", "odd")
# Co-moments of one tile, both halves.
TILE_BYTES = 256 << 20
ROWS_PER_CHUNK, COLUMNS_PER_CHUNK = 256, 2048
# Spans merged into one.
FAN_IN = 8
PROVENANCE = ("source", "versions", "revision")

Span = tuple[int, int]
MapSize = tuple[int, int]
_SPAN = re.compile(r"(\d{8})-(\d{8})\.json")


@dataclass(frozen=True)
class UnitLayer:
    """One layer whose channels are units; its maps are ``height`` × ``width``."""

    name: str
    units: int
    height: int
    width: int

    @property
    def size(self) -> MapSize:
        return self.height, self.width


@dataclass(frozen=True)
class Card:
    """A model's identity.

    Attributes
    ----------
    name : str
        As the user gave it.
    weights_digest : str
        sha256 over its weights.
    layers : tuple of UnitLayer
        Units are numbered through them, in this order.
    preprocessing : dict
        How pictures become its input; empty for a generator.
    latent : int or None
        Numbers that a generator takes.
    """

    name: str
    weights_digest: str
    layers: tuple[UnitLayer, ...]
    preprocessing: dict[str, Any]
    latent: int | None = None

    @property
    def slug(self) -> str:
        """The name as a part of a path."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", self.name).strip("-")

    @property
    def units(self) -> int:
        return sum(layer.units for layer in self.layers)

    @property
    def offsets(self) -> list[int]:
        """First unit of every layer, and the number of units."""
        return np.cumsum([0, *(layer.units for layer in self.layers)]).tolist()

    @property
    def sizes(self) -> list[MapSize]:
        """Distinct sizes of its maps, in the order of its layers."""
        return list(dict.fromkeys(layer.size for layer in self.layers))

    def locate(self, unit: int) -> tuple[str, int]:
        """Layer and channel of a unit."""
        layer = int(np.searchsorted(self.offsets, unit, side="right")) - 1
        return self.layers[layer].name, unit - self.offsets[layer]


@dataclass(frozen=True)
class Setup:
    """What all sums of one place have in common.

    Attributes
    ----------
    image_list_digest : str
    images, shard_size, batch_size : int
        A shard's images are summed in batches, and give one partial sum of every tile.
    generator : str or None
        The model that made the images; image ``i`` comes from seed ``i``.
    source, versions, revision
        Provenance.
    """

    image_list_digest: str
    images: int
    shard_size: int
    batch_size: int
    generator: str | None = None
    source: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    revision: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_size)

    def rows(self, shard: int) -> tuple[int, int]:
        """First image of a shard and the one after its last."""
        return shard * self.shard_size, min((shard + 1) * self.shard_size, self.images)


@dataclass(frozen=True)
class Tile:
    """Rows ``start … stop-1`` of one pair's matrix: units of model ``a`` by all units of ``b``."""

    a: str
    b: str
    start: int
    stop: int

    @property
    def pair(self) -> str:
        return f"{self.a}--{self.b}"


def pair_of(first: Card, second: Card) -> tuple[Card, Card]:
    """Two models in the order in which their pair is kept."""
    return (first, second) if first.slug <= second.slug else (second, first)


def tiles(a: Card, b: Card) -> list[Tile]:
    """The tiles of a pair."""
    rows = max(1, TILE_BYTES // (8 * len(HALVES) * b.units))
    if rows > ROWS_PER_CHUNK:
        rows -= rows % ROWS_PER_CHUNK
    starts = range(0, a.units, rows)
    return [Tile(a.slug, b.slug, s, min(s + rows, a.units)) for s in starts]


# -- identity ------------------------------------------------------------------------------


def find_setup(url: str) -> Setup | None:
    """The setup of what is at a URL; None where nothing is."""
    place = urls.join(url, SETUP)
    if not urls.exists(place):
        return None
    raw = _read(place)
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{url} has Rosetta schema version {raw.get('schema_version')}; this Facet reads "
            f"version {SCHEMA_VERSION}: choose another `out`"
        )
    return of_json(Setup, raw, place)


def write_setup(url: str, setup: Setup) -> None:
    _write(urls.join(url, SETUP), asdict(setup))


def require_same(url: str, found: Setup | Card, wanted: Setup | Card) -> None:
    """Refuse sums made otherwise, naming every field that differs."""
    old, new = (json.loads(json.dumps(asdict(s))) for s in (found, wanted))
    differing = [n for n in old if n not in PROVENANCE and old[n] != new[n]]
    if differing:
        lines = "\n".join(f"  {n}: there {old[n]!r}, this run {new[n]!r}" for n in differing)
        what = f"model {found.name}" if isinstance(found, Card) else "sums"
        raise StoreMismatch(
            f"{url} holds {what} of another configuration:\n{lines}\n"
            "Give the run another `out`, or the settings that it was made with."
        )


def keep_card(url: str, card: Card) -> None:
    """Write a model's card, or refuse one that differs from the card kept."""
    place = urls.join(url, MODELS, card.slug, "card.json")
    if urls.exists(place):
        require_same(url, of_json(Card, _read(place), place), card)
    else:
        _write(place, asdict(card))


def read_cards(url: str) -> dict[str, Card]:
    """The cards of all models at a URL, by slug."""
    places = [urls.join(url, MODELS, n, "card.json") for n in urls.list_names(_models(url))]
    return {c.slug: c for c in (of_json(Card, _read(p), p) for p in places)}


def _models(url: str) -> str:
    return urls.join(url, MODELS)


def _read(place: str) -> dict[str, Any]:
    return json.loads(urls.read_bytes(place))


def _write(place: str, content: Mapping[str, Any]) -> None:
    urls.put_bytes(place, json.dumps(content, indent=2, sort_keys=True).encode())


# -- partial sums --------------------------------------------------------------------------

SUM_DIMS = {
    "n": ("half",),
    "a_mean": ("half", "unit_a", "size_b"),
    "a_m2": ("half", "unit_a", "size_b"),
    "b_mean": ("half", "unit_b", "size_a"),
    "b_m2": ("half", "unit_b", "size_a"),
    "c": ("half", "unit_a", "unit_b"),
}


def _tile_url(url: str, tile: Tile) -> str:
    return urls.join(url, SUMS, tile.pair, f"{tile.start:08d}")


def _span_url(url: str, tile: Tile, span: Span) -> str:
    return urls.join(_tile_url(url, tile), f"{span[0]:08d}-{span[1]:08d}")


def write_sums(url: str, tile: Tile, span: Span, values: Mapping[str, NDArray[Any]]) -> None:
    """Keep the sums of shards ``first … last`` of a tile; the marker is written last."""
    place = _span_url(url, tile, span)
    data = xr.Dataset({name: (SUM_DIMS[name], value) for name, value in values.items()})
    rows, columns = values["c"].shape[1:]
    chunk = (1, min(rows, ROWS_PER_CHUNK), min(columns, COLUMNS_PER_CHUNK))
    write_dataset(f"{place}.zarr", data, chunks={"c": chunk})
    _write(f"{place}.json", {"images": values["n"].tolist()})


def read_sums(url: str, tile: Tile, span: Span) -> dict[str, NDArray[Any]]:
    """The sums of shards ``first … last`` of a tile; ``NotFinite`` if they are spoilt."""
    place = f"{_span_url(url, tile, span)}.zarr"
    values = {str(name): np.asarray(array.values) for name, array in open_dataset(place).items()}
    for name, array in values.items():
        refuse_not_finite(f"{name} of {place}", array)
    return values


def done_spans(url: str, tile: Tile) -> set[Span]:
    """Runs of shards of which a tile's sums are kept."""
    names = urls.list_names(_tile_url(url, tile))
    return {(int(m[1]), int(m[2])) for name in names if (m := _SPAN.fullmatch(name))}


def outermost(spans: Iterable[Span]) -> list[Span]:
    """Spans that no other holds, in order: what a killed merge left behind is not among them."""
    kept: list[Span] = []
    for first, last in sorted(spans, key=lambda s: (s[0], -s[1])):
        if not kept or last > kept[-1][1]:
            kept.append((first, last))
    return kept


def remove_spans(url: str, tile: Tile, spans: Collection[Span]) -> None:
    """Remove sums that were merged into a wider span; markers go first."""
    for end in ("json", "zarr"):
        for span in spans:
            urls.remove(f"{_span_url(url, tile, span)}.{end}")


def complete_group(spans: Collection[Span], span: Span) -> list[Span]:
    """The ``FAN_IN`` spans that make a wider one with ``span``; empty unless all are there.

    Groups are aligned, so that sums are merged in one order whatever finished first.
    """
    length = span[1] - span[0] + 1
    first = span[0] - span[0] % (length * FAN_IN)
    group = [(first + i * length, first + (i + 1) * length - 1) for i in range(FAN_IN)]
    return group if all(s in spans for s in group) else []


# -- correlations --------------------------------------------------------------------------

CORRELATION_DIMS = {
    **dict.fromkeys(("whole", *HALVES), ("unit_a", "unit_b")),
    "a_mean": ("unit_a",),
    "a_std": ("unit_a",),
    "b_mean": ("unit_b",),
    "b_std": ("unit_b",),
}


def correlations_url(url: str, pair: str) -> str:
    return urls.join(url, CORRELATIONS, pair)


def create_correlations(url: str, a: Card, b: Card) -> None:
    """Create a pair's empty arrays; only the driver does."""
    grid = tiles(a, b)
    rows = grid[0].stop - grid[0].start
    chunk = (min(rows, ROWS_PER_CHUNK), min(b.units, COLUMNS_PER_CHUNK))
    shape = {"unit_a": a.units, "unit_b": b.units}
    root = urls.join(url, CORRELATIONS)
    zarr.open_group(urls.zarr_store(root, read_only=False), mode="a")
    place = correlations_url(url, grid[0].pair)
    group = zarr.open_group(urls.zarr_store(place, read_only=False), mode="w")
    for name, dims in CORRELATION_DIMS.items():
        matrix = len(dims) == 2
        group.create_array(
            name,
            shape=tuple(shape[d] for d in dims),
            dtype="float32" if matrix else "float64",
            chunks=chunk if matrix else ((rows,) if dims == ("unit_a",) else (b.units,)),
            fill_value=np.nan,
            dimension_names=dims,
        )
    group.attrs["facet"] = {"a": a.name, "b": b.name}
    consolidate(group)


def write_correlations(url: str, tile: Tile, values: Mapping[str, NDArray[Any]]) -> None:
    """Write a tile's rows, then its marker."""
    group = urls.open_group(correlations_url(url, tile.pair), mode="r+")
    for name, value in values.items():
        if CORRELATION_DIMS[name][0] == "unit_a":
            group[name][tile.start : tile.stop] = value  # type: ignore[index]
        elif tile.start == 0:
            group[name][:] = value  # type: ignore[index]
    _write(f"{_tile_url(url, tile)}/correlations.json", {"rows": [tile.start, tile.stop]})


def correlated(url: str, tile: Tile) -> bool:
    """Whether a tile's correlations are written."""
    return urls.exists(f"{_tile_url(url, tile)}/correlations.json")


def open_correlations(url: str, first: str, second: str) -> xr.Dataset:
    """Correlations of every unit of one model (by slug) with every unit of another.

    Returns
    -------
    xarray.Dataset
        Lazy; ``whole``, ``even``, ``odd`` (unit_a, unit_b) float32, NaN where a unit is dead or
        constant; ``unit_a`` are the first model's units whatever the order that is kept.
    """
    kept = f"{min(first, second)}--{max(first, second)}"
    data = open_dataset(correlations_url(url, kept))
    if first <= second:
        return data
    names = {"unit_a": "unit_b", "unit_b": "unit_a"}
    swapped = {
        n: ("b" if n[0] == "a" else "a") + n[1:] for n in ("a_mean", "a_std", "b_mean", "b_std")
    }
    return data.rename({**names, **swapped}).transpose("unit_a", "unit_b")
