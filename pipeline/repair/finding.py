"""A repair: the gains that are given or found, beside others of as many heads, held out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.cluster import machines, pace
from pipeline.heads.ablation import Readout, reduced_means
from pipeline.heads.choices import Head
from pipeline.heads.studies import maps_of
from pipeline.stats.accuracy import ChanceWarning
from pipeline.telling import SILENT, Teller, several
from storage.reductions import Reductions
from storage.store import Store

from .accuracy import ShardEdits, classify, table
from .gains import Components
from .groups import Asked, Group, count_groups, namer, refuse_groups
from .scores import Scorer
from .search import Found, ShardMargins, best_gains, gather, sample

# Groups that a note names.
LISTED = 10
# Held-out images of a group from which on its accuracy says something: that of ten images has a
# standard error of up to 16 points.
ENOUGH = 10


def _few(names: Sequence[str]) -> str:
    """Some names, which may have commas in them."""
    return "; ".join(names[:LISTED]) + ("; …" if len(names) > LISTED else "")


@dataclass(frozen=True, eq=False)
class Counted:
    """How many images of each group are in each half."""

    training: Counter[Group]
    held_out: Counter[Group]

    def notes(self, asked: Asked, search: bool) -> list[str]:
        """Groups whose figure says little or is not there, or that gains lack, by name."""
        groups = set(self.training) | set(self.held_out)
        name = namer(groups, asked.classes)
        small = {group for group, count in self.held_out.items() if count < ENOUGH}
        doubtful = [
            (groups - set(self.held_out), "without held-out images, they are in no figure"),
            (small, f"with fewer than {ENOUGH} held-out images, which say little of them"),
        ]
        if search:
            without = groups - set(self.training)
            doubtful.append((without, "without training images, gains are found without them"))
        found = []
        for some, what in doubtful:
            if names := [name(group) for group in sorted(some)]:
                found.append(f"{several(len(names), 'group')} {what}: {_few(names)}")
        return found

    def table(self, asked: Asked) -> pd.DataFrame:
        """As ``tables.REPAIRS`` has it."""
        groups = sorted(set(self.training) | set(self.held_out))
        name = namer(groups, asked.classes)
        return pd.DataFrame(
            {
                "name": [name(g) for g in groups],
                "class": [asked.classes.names[c] for c, _ in groups],
                "value": [value for _, value in groups],
                "training": [self.training[g] for g in groups],
                "held_out": [self.held_out[g] for g in groups],
            }
        )


@dataclass(frozen=True, eq=False)
class Repair:
    """What was found.

    Attributes
    ----------
    gains_s : (S,) float64
        Of the repair, in the order of ``Components``.
    heads : list of Head
        That it takes away.
    searched : Found or None
    accuracy, gains : DataFrame
        As ``tables.REPAIRS`` has them.
    warnings : list of str
        What makes the figures doubtful.
    """

    gains_s: np.ndarray
    heads: list[Head]
    searched: Found | None
    accuracy: pd.DataFrame
    gains: pd.DataFrame
    warnings: list[str]


def counted(store: Store, asked: Asked, search: bool) -> Counted:
    """Groups and their halves; refused where they say nothing."""
    shards = sorted(store.done_shards())
    training, held_out = (
        count_groups(store, shards, asked, half) for half in ("training", "held-out")
    )
    refuse_groups(training, held_out, asked, search)
    return Counted(training, held_out)


def repair(
    store: Store,
    asked: Asked,
    groups: Counted,
    readout: np.ndarray,
    reductions: Reductions,
    heads: Sequence[Head] | None,
    teller: Teller = SILENT,
) -> Repair:
    """Find or take gains, and classify the held-out images with them.

    Parameters
    ----------
    store : Store
    asked : Asked
    groups : Counted
    readout : (C, E) float
        Unit embeddings of the classes.
    reductions : Reductions
        Of the images that means are over.
    heads : sequence of (layer, head) or None
        What is put at its mean; None: gains are found on the training half.
    teller : Teller
    """
    components = Components(store.meta.layers, store.meta.heads)
    scorer = Scorer(components, reduced_means(reductions), Readout(maps_of(store), readout))
    shards = sorted(store.done_shards())
    passes = 2 if heads is None else 1
    products = 2 * passes * len(shards) * store.meta.shard_size * components.count * readout.size
    seconds = passes * pace.of_shards(store.meta, len(shards)) + pace.of_products(products)
    machines.settle(seconds, f"{several(len(shards), 'shard')}, groups", teller.say)
    searched = None
    if heads is None:
        shares = sample(groups.training, store.meta.layers * store.meta.heads, len(readout))
        if min(shares.values()) < 1:
            teller.say(
                f"of the largest groups' training images {min(shares.values()):.1%} are taken: "
                "more would not fit into memory"
            )
        plan = ShardMargins(store.url, asked, scorer, shares)
        with teller.bar("shards of the training half", len(shards)) as move:
            margins = gather(plan, shards, move)
        with teller.wait("looking for gains"):
            searched = best_gains(margins)
        gains_s = components.with_gains(searched.gains_s.reshape(-1, store.meta.heads))
    else:
        gains_s = components.without(heads)
    away = components.away(gains_s)
    edits = {"chosen": gains_s, "published": components.published(gains_s)}
    edits |= {
        f"random {i + 1}": components.without(drawn)
        for i, drawn in enumerate(components.random(away))
    }
    name = namer([*groups.training, *groups.held_out], asked.classes)
    with teller.bar("shards of the held-out half", len(shards)) as move:
        outcomes = classify(
            ShardEdits(store.url, asked, scorer, np.stack(list(edits.values()))), shards, move
        )
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", ChanceWarning)
        accuracy = table(
            outcomes, list(edits), asked.classes, {g: name(g) for g in groups.held_out}
        )
    said = sorted({str(warning.message) for warning in raised})
    return Repair(gains_s, away, searched, accuracy, gains_table(components, edits), said)


def gains_table(components: Components, edits: dict[str, np.ndarray]) -> pd.DataFrame:
    """Gains of heads, of every edit, where they are not 1."""
    rows: list[dict[str, Any]] = []
    for edit, gains_s in edits.items():
        heads_lh, _, _ = components.split(gains_s)
        for layer, head in zip(*np.nonzero(heads_lh != 1), strict=True):
            gain = float(heads_lh[layer, head])
            rows.append({"edit": edit, "layer": int(layer), "head": int(head), "gain": gain})
    return pd.DataFrame(rows, columns=["edit", "layer", "head", "gain"])
