"""Labels of heads, as data: for tables, pages and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from storage.results import Result, latest_result
from storage.store import Store

from .found import JOB


@dataclass(frozen=True, eq=False)
class Labels:
    """What a result says of heads.

    Attributes
    ----------
    judge : str
    pool, lexicon : str
        Where texts and properties came from.
    labels, texts, scores : DataFrame
        As ``labels.tables.LABELS`` has them.
    """

    judge: str
    pool: str
    lexicon: str
    labels: pd.DataFrame
    texts: pd.DataFrame
    scores: dict[str, float]


def labelled(result: Result) -> Labels:
    """The tables of a run of labels."""
    facts = result.provenance
    labels = result.table("labels").to_pandas()
    for column in ("label", "nearest", "role"):
        labels[column] = labels[column].astype(object).where(labels[column].notna(), None)
    scores = result.table("scores").to_pandas()
    values = dict(zip(scores["score"], map(float, scores["value"]), strict=True))
    texts = result.table("texts").to_pandas()
    return Labels(facts["judge"], facts["pool"], facts["lexicon"], labels, texts, values)


@dataclass(frozen=True)
class ModelScores:
    """A store's scores, and which model they are of.

    Attributes
    ----------
    store, model, weights, source : str
    size, patch : str
        As the published tables have them, such as ``B`` and ``32``; empty where a model's name does
        not tell.
    judge, pool, lexicon, layers : str
        How the heads were labelled.
    heads : int
    scores : dict of str to float
    """

    store: str
    model: str
    size: str
    patch: str
    weights: str
    source: str
    judge: str
    pool: str
    lexicon: str
    layers: str
    heads: int
    scores: dict[str, float]


def compared(stores: Sequence[Store]) -> list[ModelScores]:
    """The scores of every store's labels that were asked for last.

    Raises
    ------
    StoreError
        If a store has none.
    """
    found = []
    for store in stores:
        result = latest_result(store.url, JOB)
        answer = labelled(result)
        meta = store.meta
        rest = meta.architecture.partition("ViT-")[2]
        size, _, patch = rest.partition("-")
        found.append(
            ModelScores(
                store=store.url,
                model=meta.architecture,
                size=size,
                patch=patch.partition("-")[0],
                weights=meta.weights,
                source=meta.source,
                judge=answer.judge,
                pool=answer.pool,
                lexicon=answer.lexicon,
                layers=result.config["layers"],
                heads=len(answer.labels),
                scores=answer.scores,
            )
        )
    return found


def differing(found: Sequence[ModelScores]) -> list[str]:
    """In what models were not labelled alike."""
    ways = ("source", "judge", "pool", "lexicon", "layers")
    names = {"source": "images"}
    return [names.get(way, way) for way in ways if len({getattr(m, way) for m in found}) > 1]
