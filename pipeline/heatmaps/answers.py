"""What is known of methods that were held to masks, as data."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from storage.results import Result


@dataclass(frozen=True, eq=False)
class Segmented:
    """The tables of ``heatmaps.tables.SEGMENTATION`` that stand for the whole data set."""

    methods: pd.DataFrame
    differences: pd.DataFrame
    classes: pd.DataFrame
    curve: pd.DataFrame


def segmented(result: Result) -> Segmented:
    """The tables of a run of segmentation."""
    names = ("methods", "differences", "classes", "curve")
    return Segmented(*(result.table(name).to_pandas() for name in names))
