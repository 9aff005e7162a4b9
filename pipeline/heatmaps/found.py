"""What heat maps of one picture say, as data: maps, and a row of figures for each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from storage import urls
from storage.results import Result, may_be_unknown

from .split import TERMS, Split

# The table that a result keeps.
HEATMAPS = {
    "maps": pa.schema(
        [
            ("text", pa.string()),
            ("against", pa.string()),
            ("head", pa.string()),
            ("extreme", pa.string()),
            may_be_unknown("coefficient"),
            ("shown", pa.float64()),
            may_be_unknown("share"),
            *((term, pa.float64()) for term in TERMS),
            ("logit", pa.float64()),
            ("residual", pa.float64()),
        ]
    )
}
PICTURE = "picture.png"


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """Heat maps of one picture.

    Attributes
    ----------
    picture : str
        Which it is: its number in the store and its key, or its file.
    image : int or None
        Its number, where the store holds it.
    unreadable : str or None
        Why it is not to be had as it was; it is grey then.
    layers : list of int
    heads : list of str
        Those that are summed, as ``3.0``; none: all of the layers.
    convention : str
    less : str or None
        The texts whose mean map is taken from each.
    stored : bool
        Whether they are from the store's tokens, or the model was run.
    maps : (map, rows, columns) float64
        What each patch wrote of the logit.
    table : DataFrame
        As ``HEATMAPS`` has it, a row a map.
    pixels : (height, width, 3) uint8
        As the model sees it.
    edit : str or None
        Name of the edit whose embedding they are of.
    """

    picture: str
    image: int | None
    unreadable: str | None
    layers: list[int]
    heads: list[str]
    convention: str
    less: str | None
    stored: bool
    maps: NDArray[np.float64]
    table: pd.DataFrame
    pixels: NDArray[np.uint8] = field(metadata={"picture": True})
    edit: str | None = None

    @property
    def strongest(self) -> float:
        """The largest size of any patch of any map: the end of their common scale."""
        return float(np.abs(self.maps).max())

    @property
    def own_texts(self) -> bool:
        """Whether each head is shown by texts of its own."""
        return bool((self.table["head"] != "").any())

    def facts(self) -> dict[str, Any]:
        """All but what stands in files of its own; JSON-able."""
        names = ("picture", "image", "unreadable", "layers", "heads", "convention", "less",
                 "stored", "edit")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> xr.Dataset:
        """The maps with their coordinates."""
        names = {name: ("text", self.table[name].to_numpy(object)) for name in _NAMES}
        return xr.Dataset({"map": (("text", "row", "column"), self.maps)}, names)


_NAMES = ("text", "against", "head", "extreme")


def of_texts(
    split: Split, texts: Sequence[str], against: str = ""
) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Maps of texts, and their figures.

    Parameters
    ----------
    split : Split
        Of the texts, then of what is taken from each, if anything is.
    texts : sequence of str
    against : str
        That, where it is a text.
    """
    maps = split[range(len(texts))]
    if len(split.logit_m) > len(texts):
        maps -= split[[-1] * len(texts)]
    return maps.patches_mrc, rows(maps, texts, against)


def rows(
    split: Split,
    texts: Sequence[str],
    against: str = "",
    head: str = "",
    extremes: Sequence[str] = (),
    coefficients: Sequence[float] = (),
) -> pd.DataFrame:
    """The figures of maps, one a text."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = split.shown_m / split.logit_m
    return pd.DataFrame(
        {
            "text": list(texts),
            "against": against,
            "head": head,
            "extreme": list(extremes) or "",
            "coefficient": list(coefficients) or np.nan,
            "shown": split.shown_m,
            "share": np.where(np.isfinite(share), share, np.nan),
            **{term: split.rest[term] for term in TERMS},
            "logit": split.logit_m,
            "residual": split.residual_m,
        }
    )


def read(result: Result) -> HeatMaps:
    """What a finished run found."""
    known = result.provenance
    pixels = np.asarray(Image.open(io.BytesIO(urls.read_bytes(urls.join(result.url, PICTURE)))))
    facts = {name: known[name] for name in HeatMaps.__dataclass_fields__ if name in known}
    return HeatMaps(
        **facts,
        maps=result.arrays("maps")["map"].values,
        table=result.table("maps").to_pandas(),
        pixels=pixels,
    )
