"""What an alignment found, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from storage.results import Result


@dataclass(frozen=True)
class MappedText:
    """A text of one model on a head of the other; the figures are those of ``align/texts``."""

    text: str
    score: float
    explained_variance: float
    cumulative: float
    r2: float


@dataclass(frozen=True)
class Match:
    """A head of `to`, the head of `from` that is most like it, and texts of `from`.

    Attributes
    ----------
    layer, head : int
        Of `to`.
    from_layer, from_head : int
        -1 where none varies.
    cka, cca : float
        Of the two.
    texts : tuple of MappedText
        By rank.
    """

    layer: int
    head: int
    from_layer: int
    from_head: int
    cka: float
    cca: float
    texts: tuple[MappedText, ...]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Two models over the same images.

    Attributes
    ----------
    source, target : str
        The models of `from` and of `to`.
    facts : dict
        ``images``, ``r2``, ``strength``, ``embedding_cka``, what was left out.
    matches : tuple of Match
        Of every head of `to` that was looked at, by falling CKA.
    pairs : DataFrame
        As ``ALIGNED`` has it.
    warnings : tuple of str
    """

    source: str
    target: str
    facts: dict[str, Any]
    matches: tuple[Match, ...]
    pairs: pd.DataFrame
    warnings: tuple[str, ...]


# What provenance says of the images and of the map.
FACTS = (
    "images", "same_list", "only_from", "only_to", "absent", "lost", "embedding_cka", "r2",
    "strength", "fitted", "held_out",
)  # fmt: skip


def aligned(result: Result, top: int) -> Alignment:
    """What an alignment found, with the first ``top`` texts of every head."""
    known, pairs = result.provenance, result.table("pairs").to_pandas()
    rows = result.table("texts").to_pandas()
    texts: dict[tuple[int, int], list[MappedText]] = {}
    for row in rows[rows["rank"] < top].sort_values(["layer", "head", "rank"]).itertuples():
        text = MappedText(row.text, row.score, row.explained_variance, row.cumulative, row.r2)
        texts.setdefault((row.layer, row.head), []).append(text)
    matches = []
    for (layer, head), of in pairs.groupby(["to_layer", "to_head"]):
        named = tuple(texts.get((layer, head), ()))
        if of["cka"].isna().all():
            matches.append(Match(layer, head, -1, -1, np.nan, np.nan, named))
            continue
        best = of.loc[of["cka"].idxmax()]
        place = int(best["from_layer"]), int(best["from_head"])
        figures = float(best["cka"]), float(best["cca"])
        matches.append(Match(int(layer), int(head), *place, *figures, named))
    matches.sort(key=lambda match: -np.nan_to_num(match.cka, nan=-1.0))
    return Alignment(
        known["from"], known["to"], {name: known[name] for name in FACTS}, tuple(matches), pairs,
        tuple(known["warnings"]),
    )  # fmt: skip
