"""What came of adversarial images, as data: cues, descriptions, pictures, outcomes and rates."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from storage import urls
from storage.results import Result, finished_results

from .choices import Outcome
from .tables import CUES, DESCRIPTIONS

# The jobs of the stages before the last, by what they leave.
STAGES = {
    "cues": "adversarial_cues",
    "descriptions": "adversarial_descriptions",
    "pictures": "adversarial_pictures",
}
# What sources of cues are called where they are shown; see ``choices.Source``.
SOURCES = {
    "second-order": "second-order effects",
    "random": "random neurons",
    "indirect": "indirect effects",
    "similar": "most similar texts",
    "none": "no cues",
    "given": "given",
}
# Pictures of each source that are shown.
PICTURES = 8
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, eq=False)
class Adversarial:
    """Pictures of one class that are to be taken for another, and what came of them.

    Attributes
    ----------
    drawn, target : str
    cues, neurons, descriptions, pictures : DataFrame
        As the tables of the stages have them (``tables.CUES``, ``DESCRIPTIONS``, ``PICTURES``).
    judged, rates, table : DataFrame
        As ``tables.JUDGED`` has them.
    folder : str
        Where the files of ``pictures`` are.
    unknown : bool
        Whether there are pictures of which nobody knows whether the drawn class is there.
    maps : list of SpeaksFor
        Of the pictures that have one.
    """

    drawn: str
    target: str
    cues: pd.DataFrame
    neurons: pd.DataFrame
    descriptions: pd.DataFrame
    pictures: pd.DataFrame
    judged: pd.DataFrame
    rates: pd.DataFrame
    table: pd.DataFrame
    folder: str
    unknown: bool
    maps: list[SpeaksFor] = field(default_factory=list)

    def of(self, source: str) -> pd.Series:
        """The row of the table of a source of cues."""
        return self.table[self.table["source"] == source].iloc[0]

    @property
    def sources(self) -> list[str]:
        """Sources of cues, in the table's order."""
        return self.table["source"].tolist()

    def outcomes(self) -> pd.DataFrame:
        """Pictures by source and outcome: a row a source, a column an outcome that there is."""
        counts = pd.crosstab(self.judged["source"], self.judged["outcome"])
        known = [name for name in OUTCOMES if name in counts]
        return counts[[*known, *(n for n in counts if n not in known)]].reindex(
            self.sources, fill_value=0
        )

    def cues_in(self, source: str, repeat: int, number: int) -> list[str]:
        """The cues of a description."""
        known = self.descriptions
        at = (known["source"] == source) & (known["repeat"] == repeat) & (known["number"] == number)
        return [str(cue) for cues in known.loc[at, "cues"] for cue in cues]

    def picture(self, file: str) -> Image.Image:
        """A picture that was drawn, by its file."""
        return Image.open(io.BytesIO(urls.read_bytes(urls.join(self.folder, file))))


@dataclass(frozen=True, eq=False)
class SpeaksFor:
    """What speaks for the target in a picture, rather than for the drawn class.

    Attributes
    ----------
    file : str
    map_rc : (rows, columns) float64
        What each patch wrote of the difference of both cosines.
    pixels : (height, width, 3) uint8
        The picture as the model saw it.
    """

    file: str
    map_rc: NDArray[np.float64]
    pixels: NDArray[np.uint8] = field(metadata={"picture": True})


def shown(judged: pd.DataFrame) -> pd.DataFrame:
    """The pictures that pages show: of each source those that fooled the model, then others, the
    clearest first."""
    rows = judged[judged["file"] != ""].assign(fooled=judged["outcome"] == "fooled")
    rows = rows.sort_values(["fooled", "margin"], ascending=False, kind="stable")
    return rows.groupby("source", sort=False).head(PICTURES)


def said(source: str) -> str:
    """A source of cues in words."""
    return SOURCES.get(source, source)


def adversarial(result: Result) -> Adversarial:
    """What a finished run found, with the stages that led to it.

    The names of their results stand under ``stages`` in the provenance.
    """
    stages = {name: stage(result, name) for name in result.provenance["stages"]}
    maps = []
    if "maps" in result.provenance:
        kept = result.arrays("maps")
        maps = [
            SpeaksFor(str(file), map_rc, pixels)
            for file, map_rc, pixels in zip(
                kept["file"].values, kept["map"].values, kept["pixels"].values, strict=True
            )
        ]

    def table(name: str, kept: str, schemas: Mapping[str, pa.Schema]) -> pd.DataFrame:
        """A table of a stage; empty where a file stood in place of it or of a later one."""
        if name in stages:
            return stages[name].table(kept).to_pandas()
        return schemas[kept].empty_table().to_pandas()

    pictures = stages["pictures"].table("pictures").to_pandas()
    looked = result.config.get("keep") or result.config.get("judge")
    return Adversarial(
        result.config["drawn"],
        result.config["target"],
        table("cues", "cues", CUES),
        table("cues", "neurons", CUES),
        table("descriptions", "descriptions", DESCRIPTIONS),
        pictures,
        result.table("judged").to_pandas(),
        result.table("rates").to_pandas(),
        result.table("table").to_pandas(),
        stages["pictures"].url,
        bool((pictures["became"].eq("drawn") & pictures["there"].isna()).any() and not looked),
        maps,
    )


def stage(result: Result, name: str) -> Result:
    """The result of a stage that a finished run went on from."""
    url, digest = result.url.rsplit("/", 3)[0], result.provenance["stages"][name]
    return next(found for found in finished_results(url, STAGES[name]) if found.name == digest)
