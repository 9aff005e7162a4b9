"""Concepts that models share, and inversions through them, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from storage import urls
from storage.results import Result


@dataclass(frozen=True)
class Member:
    """A unit of one model in a concept; for the hub ``correlation`` is 1."""

    model: str
    layer: str
    unit: int
    correlation: float
    replicates: bool

    @property
    def name(self) -> str:
        """The model's, without what its weights are."""
        return self.model.partition("@")[0]

    @property
    def place(self) -> str:
        return f"unit {self.unit} of {self.layer}"

    def said(self, hub: bool) -> str:
        """Where it stands, and how well it goes with the hub's."""
        halves = "in both halves" if self.replicates else "not in both halves"
        how = "the hub" if hub else f"correlation {self.correlation:.2f}, {halves}"
        return f"{self.name}, {self.place}: {how}"


@dataclass(frozen=True)
class Concept:
    """One concept: a unit of the hub, and its best match in each other model.

    Attributes
    ----------
    number : int
        As in the result's table.
    members : tuple of Member
        The hub first.
    """

    number: int
    members: tuple[Member, ...]

    @property
    def replicates(self) -> bool:
        return all(m.replicates for m in self.members)

    @property
    def strength(self) -> float:
        """Correlation of the weakest of its matches."""
        return min(m.correlation for m in self.members[1:])


def concepts_of(table: pd.DataFrame, hub: str) -> list[Concept]:
    """Every concept once, those that both halves show first, then by falling correlation.

    Parameters
    ----------
    table : DataFrame
        The result's ``concepts``.
    """
    best: dict[int, Concept] = {}
    ordered = table.sort_values(["replicates", "correlation"], ascending=False, kind="stable")
    for _, rows in ordered.groupby(["concept", "hub_layer", "hub_unit"], sort=True):
        number, layer, unit = rows[["concept", "hub_layer", "hub_unit"]].iloc[0]
        first = rows.drop_duplicates("model").sort_index()
        columns = ["model", "layer", "unit", "correlation", "replicates"]
        matches = [Member(*row) for row in first[columns].itertuples(index=False, name=None)]
        found = Concept(int(number), (Member(hub, str(layer), int(unit), 1.0, True), *matches))
        other = best.get(found.number)
        if other is None or _rank(found) < _rank(other):
            best[found.number] = found
    return sorted(best.values(), key=_rank)


def _rank(concept: Concept) -> tuple[bool, float, int]:
    return not concept.replicates, -concept.strength, concept.number


def about(concept: Concept, truth: pd.DataFrame | None) -> tuple[str, str]:
    """A title that says what a concept is, as far as that is known, and the sentence below it.

    Parameters
    ----------
    truth : DataFrame or None
        As ``tables.TRUTH`` has it.
    """
    halves = "in both halves of the images" if concept.replicates else "but not in both halves"
    found = f"Correlation of the weakest match: {concept.strength:.2f}, {halves}."
    name = f"Concept {concept.number}"
    if truth is not None:
        rows = truth[(truth["pairing"] == "shared") & (truth["concept"] == concept.number)]
        for row in rows.to_dict("records"):
            value = f"{row['attribute']} {row['value']}"
            chance = truth.loc[truth["pairing"] == "random", "auc"].mean()
            agree = "all models agree" if row["agrees"] else "not every model's unit tells it best"
            told = (
                f"Its units tell {value} with a mean AUC of {row['auc']:.2f} (random units what "
                f"they tell best: {chance:.2f}; 0.5 tells nothing); {agree}. "
            )
            return f"{name}: {'' if row['agrees'] else 'nearest to '}{value}", told + found
    hub = concept.members[0]
    return f"{name}: {hub.place} in {hub.name}", found


def best_and_worst(concepts: Sequence[Concept], count: int) -> list[Concept]:
    """So many concepts, in their order: the first of them, one in five of them from the end."""
    if len(concepts) <= count:
        return list(concepts)
    last = max(count // 5, 1)
    return [*concepts[: count - last], *concepts[-last:]]


@dataclass(frozen=True, eq=False)
class Inverted:
    """What a run of inversions found.

    Attributes
    ----------
    generator, guide, judge : str
        The models.
    pictures, starts, pairs : int
        Pictures that were sought, starts of each, and pairs of units that guided.
    page : str
        URL of the page that shows the pictures.
    figures : DataFrame
        As ``tables.INVERSIONS`` has it.
    """

    generator: str
    guide: str
    judge: str
    pictures: int
    starts: int
    pairs: int
    page: str
    figures: pd.DataFrame


def inverted(result: Result) -> Inverted:
    """What a result of the job of inversions says."""
    known = result.provenance
    return Inverted(
        **{name: known[name] for name in ("generator", "guide", "judge", "pictures", "pairs")},
        starts=result.config["starts"],
        page=urls.join(result.url, "index.html"),
        figures=result.table("figures").to_pandas(),
    )
