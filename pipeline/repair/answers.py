"""What a repair found, as data."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from storage.results import Result

# What edits are called where they are shown; random sets have numbers.
EDITS = {
    "none": "as it is",
    "chosen": "repaired",
    "published": "published setting",
}


@dataclass(frozen=True, eq=False)
class Repaired:
    """What a repair brought to held-out images.

    Attributes
    ----------
    accuracy, gains, groups : DataFrame
        As ``tables.REPAIRS`` has them.
    heads : list of str
        The heads that are taken away, as layer.head.
    by : str
        How they were chosen.
    column : str
        Of the groups.
    edit : str
        Where the edit file is.
    """

    accuracy: pd.DataFrame
    gains: pd.DataFrame
    groups: pd.DataFrame
    heads: list[str]
    by: str
    column: str
    edit: str

    def rows(self, scope: str) -> pd.DataFrame:
        """Of all images, of the worst group, of each group."""
        return self.accuracy[self.accuracy["scope"] == scope]

    def of(self, scope: str, edit: str) -> pd.Series:
        """The figures of all images, or of the worst group, with an edit."""
        rows = self.rows(scope)
        return rows[rows["edit"] == edit].iloc[0]

    @property
    def best_random(self) -> str | None:
        """The random set with the best worst group, by its name; the first among equals."""
        drawn = self.rows("worst")[self.rows("worst")["edit"].str.startswith("random")]
        return None if drawn.empty else str(drawn["edit"].iloc[int(drawn["accuracy"].argmax())])

    def said(self, edit: str) -> str:
        """An edit in words."""
        if edit == self.best_random:
            return f"{edit} (best of five)"
        return EDITS.get(edit, edit)

    @property
    def shown(self) -> list[str]:
        """The edits that groups are shown with: one random set, the best."""
        best = [] if self.best_random is None else [self.best_random]
        return ["none", "chosen", "published", *best]

    def by_group(self) -> pd.DataFrame:
        """A row a group: ``name``, ``n``, and its accuracy with each edit of ``shown``."""
        groups = self.rows("group")
        wide = groups.pivot(index="name", columns="edit", values="accuracy")[self.shown]
        first = groups[groups["edit"] == "none"].set_index("name")["n"]
        return wide.assign(n=first).reset_index()[["name", "n", *self.shown]]

    def by_class(self) -> pd.DataFrame | None:
        """Accuracy after, and before in parentheses, a row a class and a column a value of the
        groups, as Table A.8 has it (Gandelsman 2025); None where values go with one class each."""
        groups = self.rows("group")
        own = groups[groups["edit"] == "none"]
        if own["value"].is_unique:
            return None
        after = groups.loc[groups["edit"] == "chosen", "accuracy"]
        pairs = zip(after, own["accuracy"], strict=True)
        told = [f"{100 * now:.1f} ({100 * before:.1f})" for now, before in pairs]
        return (
            own.assign(told=told).pivot(index="class", columns="value", values="told").fillna("–")
        )


def repaired(result: Result) -> Repaired:
    """The tables of a repair."""
    known = result.provenance
    return Repaired(
        result.table("accuracy").to_pandas(),
        result.table("gains").to_pandas(),
        result.table("groups").to_pandas(),
        known["heads"],
        known["by"],
        result.config["groups"],
        f"{result.url}/{known['edit']}",
    )
