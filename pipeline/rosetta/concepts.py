"""From correlations to tables: best buddies of every pair, and concepts that all models share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from pipeline.cluster.tasks import each
from pipeline.telling import SILENT, Teller
from storage.rosetta import Card, pair_of, tiles

from . import matching, plan


@dataclass(frozen=True, eq=False)
class SharedUnits:
    """What models share; the columns are those of ``storage/SCHEMA.md``.

    Attributes
    ----------
    concepts : DataFrame
        A row a unit of another model that matches a unit of the hub, of concepts in all models.
    buddies : DataFrame
        Best buddies of every pair of models.
    units : DataFrame
        Every unit's moments and state.
    """

    concepts: pd.DataFrame
    buddies: pd.DataFrame
    units: pd.DataFrame

    def replicated(self) -> int:
        """Concepts with a unit of the hub whose matches replicate in every other model."""
        others = self.units["model"].nunique() - 1
        sure = self.concepts[self.concepts["replicates"]]
        models = sure.groupby(["concept", "hub_layer", "hub_unit"])["model"].nunique()
        return int(models[models == others].reset_index()["concept"].nunique())


def match(
    url: str, cards: Mapping[str, Card], hub: Card, k: int, teller: Teller = SILENT
) -> SharedUnits:
    """Match the units of every pair of models, and merge the matches through the hub.

    Parameters
    ----------
    url : str
        Where the correlations are.
    cards : mapping of str to Card
        By slug.
    hub : Card
    k : int
        Units that match are among each other's ``k`` nearest.
    teller : Teller
    """
    buddies: dict[tuple[str, str], matching.Buddies] = {}
    pairs = [pair_of(a, b) for i, a in enumerate(cards.values()) for b in list(cards.values())[:i]]
    pairs = sorted([*pairs, (hub, hub)], key=plan.slugs)
    with teller.bar("matching: pairs", len(pairs)) as move:
        for number, (a, b) in enumerate(pairs, start=1):
            parts = list(each(matching.tile_nearest, tiles(a, b), url, k))
            buddies[a.slug, b.slug] = matching.best_buddies(parts, k)
            move(number)
    others = {slug: card for slug, card in cards.items() if slug != hub.slug}
    through = {
        slug: buddies[hub.slug, slug]
        if (hub.slug, slug) in buddies
        else buddies[slug, hub.slug].swapped()
        for slug in others
    }
    return SharedUnits(
        concepts=matching.concept_table(hub, others, through, buddies[hub.slug, hub.slug]),
        buddies=pd.concat(
            [matching.buddy_table(cards[a], cards[b], both) for (a, b), both in buddies.items()],
            ignore_index=True,
        ),
        units=pd.concat(
            [matching.unit_table(url, card, hub.slug) for card in cards.values()],
            ignore_index=True,
        ),
    )
