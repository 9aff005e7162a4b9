"""What is known of inversions through shared units, as data."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from storage import urls
from storage.results import Result


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
