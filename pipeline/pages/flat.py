"""Results as flat tables, with the columns that `storage/SCHEMA.md` gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.heads.answers import Compared, HeadAnswer
from pipeline.heads.shares import Shares
from pipeline.heads.tables import DESCRIPTIONS, TWO_SETS
from pipeline.neurons.tables import CODES
from storage.layout import SOURCES
from storage.results import INDEX_COLUMNS

if TYPE_CHECKING:  # what finds them takes seconds to import
    from pipeline.neurons.about import NeuronAnswer
    from pipeline.neurons.answers import CodedNeuron

CONCEPTS = (
    "concept", "hub_layer", "hub_unit", "model", "layer", "unit", "correlation", "replicates",
)  # fmt: skip


def heads(found: Sequence[HeadAnswer]) -> pd.DataFrame:
    """Texts of heads, as ``textspan/descriptions`` has them."""
    rows = [
        {"layer": head.layer, "head": head.head, "rank": rank, **asdict(text)}
        for head in found
        for rank, text in enumerate(head.texts)
    ]
    return pd.DataFrame(rows, columns=DESCRIPTIONS["descriptions"].names)


def two_sets(found: Compared) -> pd.DataFrame:
    """Texts along the differences of two sets, as ``compare/texts`` has them."""
    rows = [
        {
            **{name: getattr(part, name) for name in ("component", "layer", "head")},
            "rank": rank,
            **asdict(text),
        }
        for part in found.parts
        for rank, text in enumerate(part.texts)
    ]
    return pd.DataFrame(rows, columns=TWO_SETS["texts"].names)


def codes(found: Sequence[CodedNeuron | NeuronAnswer]) -> pd.DataFrame:
    """Texts of neurons, as ``omp/codes`` has them."""
    rows = [
        {"layer": neuron.layer, "neuron": neuron.neuron, "rank": rank, **asdict(text)}
        for neuron in found
        for rank, text in enumerate(neuron.texts)
    ]
    return pd.DataFrame(rows, columns=CODES["codes"].names)


def concepts(found: Sequence[Any]) -> pd.DataFrame:
    """A row for every model that shares a concept with the hub, as in ``rosetta/concepts``.

    Parameters
    ----------
    found : sequence of Concept
        Of the wing ``rosetta``, which is built on this one.
    """
    rows = [
        (c.number, c.members[0].layer, c.members[0].unit,
         m.model, m.layer, m.unit, m.correlation, m.replicates)
        for c in found
        for m in c.members[1:]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(CONCEPTS))


def results(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The list of results, as ``results/index.parquet`` has it."""
    rows = [{**row, "settings": json.dumps(row["settings"], ensure_ascii=False)} for row in found]
    return pd.DataFrame(rows, columns=INDEX_COLUMNS.names).astype({"images": "Int64"})


def sources(found: Shares) -> pd.DataFrame:
    """Shares of heads by what they gathered them from, a row a layer, head and source."""
    assert found.sources is not None  # whoever asks has a store that keeps them
    names = (*SOURCES, "patches")
    rows = [
        (layer, head, names[source], share)
        for (layer, source, head), share in np.ndenumerate(found.sources)
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "source", "share"])
