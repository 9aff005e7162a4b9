"""What searches found, as data: images by query and rank, and what they were compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from pipeline.heads.names import heads_name
from storage.results import Result

from .choices import Space

# The tables that a result keeps.
SEARCH = {
    "queries": pa.schema(
        [
            ("number", pa.int64()),
            ("kind", pa.string()),
            ("query", pa.string()),
            ("image", pa.int64()),
        ]
    ),
    "found": pa.schema(
        [
            ("number", pa.int64()),
            ("kind", pa.string()),
            ("query", pa.string()),
            ("series", pa.string()),
            ("rank", pa.int64()),
            ("image", pa.int64()),
            ("key", pa.string()),
            ("uri", pa.string()),
            ("label", pa.string()),
            ("score", pa.float64()),
        ]
    ),
}
# What was found, and what it is held against: values of `series`.
NEAREST, RANDOM_IMAGES, RANDOM_HEADS = "nearest", "random images", "random heads"


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes
    ----------
    space : str
        What images were compared in, in words.
    metric : str
    centred : bool
    property : str or None
        The label by which the heads were chosen.
    where : str or None
        Which images could be found.
    random_heads : str
        The heads of that baseline, in words; empty where there is none.
    recall : dict or None
        Of an approximate search, measured against a scan: see ``approximate.Recall``.
    queries, table : DataFrame
        As ``SEARCH`` has ``queries`` and ``found``.
    """

    space: str
    metric: str
    centred: bool
    property: str | None
    where: str | None
    random_heads: str
    queries: pd.DataFrame
    table: pd.DataFrame
    recall: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """All but the tables; JSON-able."""
        return {name: getattr(self, name) for name in (*_FACTS, "recall")}

    @classmethod
    def of(cls, result: Result) -> Found:
        """What a finished run found."""
        known = {name: result.provenance[name] for name in _FACTS}
        queries, table = (result.table(name).to_pandas() for name in ("queries", "found"))
        # Results that were kept before there were approximate searches have none.
        recall = result.provenance.get("recall")
        return cls(**known, queries=queries, table=table, recall=recall)

    def approximate(self) -> str:
        """What share of the nearest images an approximate search finds, in words."""
        if self.recall is None:
            return ""
        measured = f"{self.recall['images']:.3f} of what a scan finds"
        over = f"measured on {self.recall['queries']} images of the store"
        if (self.queries["kind"] == "text").any():
            over += f"; {self.recall['directions']:.3f} on as many random directions, for texts"
        return f"{measured}, {over}"


_FACTS = ("space", "metric", "centred", "property", "where", "random_heads")


def edited_name(edit: str) -> str:
    """What images were compared in, with an edit of this name."""
    return f"the whole embedding, edited ({edit})"


def space_name(space: Space) -> str:
    """What images are compared in, in words."""
    parts = [heads_name(space.heads)] if space.heads else []
    if space.blocks:
        several = "s" if len(space.blocks) > 1 else ""
        parts.append(f"block{several} {', '.join(map(str, space.blocks))}")
    return " and ".join([*parts, *(["the whole embedding"] if space.embedding else [])])
