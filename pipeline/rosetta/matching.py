"""Which units of different models are the same: best buddies, merging, clustering.

Gandelsman 2025, Eq. 4.3-4.4. A unit that is dead or constant correlates with nothing (NaN) and
matches nothing; nor does a pair whose correlation is not positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.stats.top import Top, merge_top, top
from storage.rosetta import HALVES, Card, Tile, open_correlations

MATRICES = ("whole", *HALVES)
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def nearest(correlation: Floats, k: int, first: int = 0) -> Top:
    """The K largest positive entries of every row; of equal ones the first.

    Parameters
    ----------
    correlation : (rows, columns)
        NaN is never near.
    k : int
    first : int
        Number of the first column.
    """
    value = np.where(correlation > 0, correlation, -np.inf).astype(np.float32)
    return top(value, k, np.arange(first, first + value.shape[1]))


@dataclass(frozen=True)
class TileNearest:
    """What one tile tells of a pair: neighbours of its rows, and of all columns among its rows.

    Attributes
    ----------
    tile : Tile
    rows, columns : dict of str to Top
        By matrix: over all images, and over each half.
    halves : dict of str to (rows, K) float32
        Correlations over each half of the rows' neighbours over all images.
    """

    tile: Tile
    rows: dict[str, Top]
    columns: dict[str, Top]
    halves: dict[str, Floats]


def tile_nearest(url: str, k: int, tile: Tile) -> TileNearest:
    """Neighbours within one tile, read from its correlations."""
    data = open_correlations(url, tile.a, tile.b)
    rows, columns, halves = {}, {}, {}
    for name in MATRICES:
        values = data[name][tile.start : tile.stop].values
        if tile.a == tile.b:  # a unit is not its own neighbour
            own = np.arange(tile.start, tile.stop)
            values[own - tile.start, own] = np.nan
        rows[name] = nearest(values, k)
        columns[name] = nearest(values.T, k, first=tile.start)
        if name in HALVES:
            index = np.maximum(rows["whole"].index, 0)
            halves[name] = np.take_along_axis(values, index, axis=1)
    return TileNearest(tile, rows, columns, halves)


@dataclass(frozen=True)
class Buddies:
    """Best buddies of a pair of models.

    Attributes
    ----------
    a, b : (pairs,) int64
        Units.
    correlation, even, odd : (pairs,) float32
        Over all images and over each half.
    replicates : (pairs,) bool
        Whether they are best buddies in each half, too.
    """

    a: Ints
    b: Ints
    correlation: Floats
    even: Floats
    odd: Floats
    replicates: NDArray[np.bool_]

    def swapped(self) -> Buddies:
        """The same pairs, the second model first."""
        return Buddies(self.b, self.a, self.correlation, self.even, self.odd, self.replicates)


def best_buddies(parts: list[TileNearest], k: int) -> Buddies:
    """Pairs that are among each other's K nearest (Eq. 4.3).

    Parameters
    ----------
    parts : list of TileNearest
        All tiles of a pair of models.
    """
    parts = sorted(parts, key=lambda p: p.tile.start)
    found = {}
    for name in MATRICES:
        rows = np.concatenate([p.rows[name].index for p in parts])
        columns = merge_top([p.columns[name] for p in parts], k).index
        width = len(columns)
        forth = _codes(rows, width)
        back = _codes(columns, len(rows))
        found[name] = np.intersect1d(forth, (back % len(rows)) * width + back // len(rows))
    codes, width = found["whole"], len(merge_top([p.columns["whole"] for p in parts], k).index)
    a, b = codes // width, codes % width
    index = np.concatenate([p.rows["whole"].index for p in parts])
    place = (index[a] == b[:, None]).argmax(axis=1)
    whole = np.concatenate([p.rows["whole"].value for p in parts])
    halves = {h: np.concatenate([p.halves[h] for p in parts])[a, place] for h in HALVES}
    replicates = np.isin(codes, found["even"]) & np.isin(codes, found["odd"])
    return Buddies(a, b, whole[a, place], halves["even"], halves["odd"], replicates)


def _codes(index: Ints, width: int) -> Ints:
    """Every (row, neighbour) as one number."""
    rows = np.repeat(np.arange(len(index)), index.shape[1])
    flat = index.ravel()
    return rows[flat >= 0] * width + flat[flat >= 0]


def shared_units(buddies: Mapping[str, Buddies]) -> Ints:
    """Units of the hub that have a best buddy in every other model (Eq. 4.4).

    Parameters
    ----------
    buddies : mapping of str to Buddies
        By other model; the hub's units are ``a``.
    """
    units: Ints | None = None
    for pairs in buddies.values():
        units = np.unique(pairs.a) if units is None else np.intersect1d(units, pairs.a)
    return np.empty(0, np.int64) if units is None else units


def cluster(units: Ints, own: Buddies) -> Ints:
    """Concept of every unit: units that are best buddies of each other share one.

    Parameters
    ----------
    units : (n,) int64
        Units of the hub, sorted.
    own : Buddies
        Of the hub with itself.

    Returns
    -------
    (n,) int64
        From 0, in the order of the units.
    """
    if not len(units):
        return units
    both = np.isin(own.a, units) & np.isin(own.b, units)
    ends = np.searchsorted(units, own.a[both]), np.searchsorted(units, own.b[both])
    graph = coo_array((np.ones(both.sum()), ends), shape=(len(units), len(units)))
    _, labels = connected_components(graph, directed=False)
    return labels.astype(np.int64)


def concept_table(hub: Card, others: Mapping[str, Card], buddies: Mapping[str, Buddies],
                  own: Buddies) -> pd.DataFrame:  # fmt: skip
    """Concepts that all models share, the strongest first, a row a match.

    Parameters
    ----------
    hub : Card
    others : mapping of str to Card
        By slug.
    buddies : mapping of str to Buddies
        Of the hub (``a``) with each of the others, by slug.
    own : Buddies
        Of the hub with itself.

    Returns
    -------
    DataFrame
        ``concept``, ``hub_layer``, ``hub_unit``, ``model``, ``layer``, ``unit``,
        ``correlation``, ``even``, ``odd``, ``replicates``. A concept's tuples (Eq. 4.4) are all
        choices of one match in each model for one unit of the hub.
    """
    units = shared_units(buddies)
    concepts = cluster(units, own)
    frames = [
        frame[frame["unit_a"].isin(units)].assign(model=others[slug].name)
        for slug, pairs in buddies.items()
        for frame in [pair_frame(hub, others[slug], pairs)]
    ]
    table = pd.concat(frames, ignore_index=True)
    table["concept"] = concepts[np.searchsorted(units, table["unit_a"])] if len(table) else []
    # A concept is as strong as the weakest of its models for the best of the hub's units.
    best = table.groupby(["concept", "unit_a", "model"])["correlation"].max()
    strength = best.groupby(["concept", "unit_a"]).min().groupby("concept").max()
    order = strength.sort_values(ascending=False, kind="stable").index
    table["concept"] = table["concept"].map({old: new for new, old in enumerate(order)})
    table = table.rename(columns={"layer_a": "hub_layer", "channel_a": "hub_unit",
                                  "layer_b": "layer", "channel_b": "unit"})  # fmt: skip
    columns = ["concept", "hub_layer", "hub_unit", "model", "layer", "unit", "correlation",
               "even", "odd", "replicates"]  # fmt: skip
    names = {card.name: i for i, card in enumerate(others.values())}
    keys = table.assign(model_order=table["model"].map(names)).sort_values(
        ["concept", "unit_a", "model_order", "correlation"], ascending=[True, True, True, False]
    )
    return keys[columns].reset_index(drop=True)


def pair_frame(a: Card, b: Card, pairs: Buddies) -> pd.DataFrame:
    """Best buddies with the layers and channels of their units."""
    return pd.DataFrame(
        {
            "unit_a": pairs.a,
            **{f"{n}_a": v for n, v in _places(a, pairs.a).items()},
            **{f"{n}_b": v for n, v in _places(b, pairs.b).items()},
            "correlation": pairs.correlation.astype(np.float64),
            "even": pairs.even.astype(np.float64),
            "odd": pairs.odd.astype(np.float64),
            "replicates": pairs.replicates,
        }
    )


def buddy_table(a: Card, b: Card, pairs: Buddies) -> pd.DataFrame:
    """Best buddies of a pair of models, by falling correlation."""
    table = pair_frame(a, b, pairs).assign(model_a=a.name, model_b=b.name)
    table = table.rename(columns={"channel_a": "unit_a", "unit_a": "row", "channel_b": "unit_b"})
    return table.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)


def unit_table(url: str, card: Card, partner: str) -> pd.DataFrame:
    """Every unit of a model: mean, standard deviation, and whether it is alive.

    Parameters
    ----------
    url : str
    card : Card
    partner : str
        Slug of any model that it was correlated with.
    """
    data = open_correlations(url, card.slug, partner)
    mean, std = data["a_mean"].values, data["a_std"].values
    state = np.where(std > 0, "alive", np.where(mean == 0, "dead", "constant"))
    places = _places(card, np.arange(card.units))
    return pd.DataFrame(
        {
            "model": card.name,
            "layer": places["layer"],
            "unit": places["channel"],
            "mean": mean,
            "std": std,
            "state": state,
        }
    )


def _places(card: Card, units: Ints) -> dict[str, NDArray]:
    layer = np.searchsorted(card.offsets, units, side="right") - 1
    names = np.array([x.name for x in card.layers], dtype=object)
    return {"layer": names[layer], "channel": units - np.array(card.offsets)[layer]}
