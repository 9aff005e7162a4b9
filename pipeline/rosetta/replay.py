"""The images of a mined set again, a few of them, as every model saw them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.images.decoding import decode_of
from storage import ledger
from storage.errors import FacetError, Remedy
from storage.images import read_rows
from storage.results import Result, finished_results
from storage.rosetta import Setup, find_setup, read_cards, require_same

from .models import UnitModel, latents, load_units, pictures
from .pictures import load_pictures, resized

BATCH = 16


@dataclass(frozen=True)
class Replayed:
    """A few images.

    Attributes
    ----------
    rows : list of dict
        Of the image table; bad images are left out, and those that have changed.
    pixels : (n, height, width, 3) uint8
        To be shown.
    inputs : dict of str to array
        What ``unit_maps`` takes, by model's name.
    """

    rows: list[dict[str, Any]]
    pixels: NDArray[np.uint8]
    inputs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Mined:
    """A finished run of the job: its setup, its result, its models by name, the hub's name.

    ``changed`` gathers the keys of images that were found to be others than those mined.
    """

    url: str
    setup: Setup
    result: Result
    models: dict[str, UnitModel]
    hub: str
    changed: set[str] = field(default_factory=set)


def open_mined(url: str) -> Mined:
    """What the job found last at a URL, with its models.

    Raises
    ------
    FacetError
        If nothing was found there, or a model is no longer the one that was mined.
    """
    setup = find_setup(url)
    results = finished_results(url, "rosetta") if setup is not None else []
    if setup is None or not results:
        raise FacetError(f"no results of rosetta in {url}", Remedy.first("rosetta", url))
    result = results[-1]
    cards = {card.name: card for card in read_cards(url).values()}
    models = {}
    for name in filter(None, [result.config["generator"], *result.config["models"]]):
        models[name] = load_units(
            name,
            generator=name == result.config["generator"],
            decode=decode_of(cards[name].preprocessing),
        )
        require_same(url, cards[name], models[name].card)
    return Mined(url, setup, result, models, result.provenance["hub"])


def replay(
    url: str, setup: Setup, models: Mapping[str, UnitModel], count: int, changed: set[str]
) -> Iterator[Replayed]:
    """At most ``count`` images, spread evenly over the list, in batches.

    ``changed`` gathers the keys of images that are left out as others than those mined.
    """
    chosen = np.unique(np.linspace(0, setup.images - 1, min(count, setup.images)).astype(int))
    for first in range(0, len(chosen), BATCH):
        found = _read(url, setup, models, chosen[first : first + BATCH].tolist(), changed)
        if found.rows:
            yield found


def _read(
    url: str,
    setup: Setup,
    models: Mapping[str, UnitModel],
    images: list[int],
    changed: set[str],
) -> Replayed:
    seeing = {n: m.preprocess.resize for n, m in models.items() if m.preprocess is not None}
    resizes = tuple(dict.fromkeys(seeing.values()))
    inputs: dict[str, Any] = {}
    if setup.generator is not None:
        table = pa.concat_tables([read_rows(url, i, i + 1) for i in images])
        generator = models[setup.generator]
        assert generator.card.latent is not None  # loaded as a generator
        inputs[setup.generator] = latents(images, generator.card.latent)
        shown = pictures(generator.maps(inputs[setup.generator])[0])
        parts = resized(shown, resizes)
        return Replayed(table.to_pylist(), shown, inputs | {n: parts[r] for n, r in seeing.items()})
    rows, kept = [], []
    for start, stop in _runs(images):
        loaded = load_pictures(url, start, stop, resizes)
        table = read_rows(url, start, stop)
        was = _mined(url, setup, range(start, stop))
        other = (was != "") & (was != np.array(loaded.rows["sha256"].to_pylist(), object))
        changed.update(table["key"].filter(pa.array(other)).to_pylist())
        ok = np.flatnonzero(loaded.rows["ok"].to_numpy(zero_copy_only=False) & ~other)
        rows += table.take(pa.array(ok)).to_pylist()
        kept.append({r: p[ok] for r, p in loaded.pixels.items()})
    joined = {r: np.concatenate([k[r] for k in kept]) for r in resizes}
    return Replayed(rows, joined[resizes[0]], {n: joined[r] for n, r in seeing.items()})


def _mined(url: str, setup: Setup, images: range) -> NDArray[Any]:
    """sha256 of images as they were mined; empty for those of which nothing is known."""
    found, done = np.full(len(images), "", object), ledger.done_shards(url)
    for place, index in enumerate(images):
        shard, at = divmod(index, setup.shard_size)
        if shard in done:
            found[place] = ledger.read_part(url, shard)["sha256"][at].as_py() or ""
    return found


def _runs(images: list[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring images: each is read at once."""
    cuts = np.flatnonzero(np.diff(images) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(np.array(images), cuts)]
