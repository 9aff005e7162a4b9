"""What was found of pictures, as a result keeps it: tables, and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from .answers import Concepts, fires_of, maps_of
from .picture import Told
from .tables import CONCEPTS

# The number of a picture that is no image of the store.
NONE = -1


@dataclass(frozen=True, eq=False)
class OfPicture:
    """All that was found of a picture.

    Attributes
    ----------
    name : str
    image : int or None
        Its number in the store.
    told : list of Told
        One a method.
    """

    name: str
    image: int | None
    told: list[Told]

    @property
    def index(self) -> int:
        """Its number in the store, as tables have it."""
        return NONE if self.image is None else self.image


def tables(found: Sequence[OfPicture]) -> dict[str, pd.DataFrame]:
    """As ``tables.CONCEPTS`` has them."""
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in CONCEPTS}
    for of in found:
        which = {"picture": of.name, "image": of.index}
        for told in of.told:
            by = {**which, "method": told.method}
            left = told.left["all"][1] if "all" in told.left else np.nan
            counts = {"active": told.active, "parts": told.parts, "left": left}
            rows["pictures"].append({**by, **counts})
            for rank, (text, score) in enumerate(told.scores.items()):
                said = told.said.get(text, [])
                row = {**by, "rank": rank, "text": text, "score": score}
                rows["concepts"].append({**row, "parts": max(1, len(said))})
                rows["said"] += [
                    {
                        "picture": of.name, "method": told.method, "text": text,
                        "layer": one.layer, "part": one.neuron,
                        "coefficient": one.coefficient, "weight": one.weight,
                    }
                    for one in said
                ]  # fmt: skip
            rows["left"] += [
                {**by, "part": part, "share": share, "length": length}
                for part, (share, length) in told.left.items()
            ]
    return {name: pd.DataFrame(of, columns=CONCEPTS[name].names) for name, of in rows.items()}


def arrays(found: Sequence[OfPicture]) -> dict[str, xr.Dataset]:
    """Maps of concepts, and where neurons fire; none where neurons were not asked or seen."""
    maps = [(of.name, told.method, m) for of in found for told in of.told for m in told.maps]
    # The published method's neurons fire where the signed one's do.
    fires = {
        (of.name, f.layer, f.neuron): f for of in found for told in of.told for f in told.fires
    }
    kept = {}
    if maps:
        kept["maps"] = xr.Dataset(
            {
                "map": (("concept", "row", "column"), np.stack([m.map_rc for *_, m in maps])),
                "class_token": ("concept", [m.class_token for *_, m in maps]),
                "mean": ("concept", [m.mean for *_, m in maps]),
                "outside": ("concept", [m.class_token + m.mean for *_, m in maps]),
            },
            {
                "picture": ("concept", np.array([name for name, *_ in maps], object)),
                "method": ("concept", np.array([method for _, method, _ in maps], object)),
                "text": ("concept", np.array([m.text for *_, m in maps], object)),
            },
        )
    if fires:
        names, layers, parts = (list(of) for of in zip(*fires, strict=True))
        kept["fires"] = xr.Dataset(
            {"map": (("neuron", "row", "column"), np.stack([f.map_rc for f in fires.values()]))},
            {
                "picture": ("neuron", np.array(names, object)),
                "layer": ("neuron", layers),
                "part": ("neuron", parts),
            },
        )
    return kept


def concepts(
    kept: Mapping[str, pd.DataFrame],
    maps: Mapping[str, xr.Dataset],
    pixels: dict[str, NDArray[np.uint8]],
) -> Concepts:
    """The same as data, before it is kept."""
    return Concepts(
        kept["pictures"],
        kept["concepts"],
        kept["said"],
        None,
        None,
        maps=maps_of(maps["maps"]) if "maps" in maps else [],
        fires=fires_of(maps["fires"]) if "fires" in maps else [],
        where=None,
        pixels=pixels,
    )
