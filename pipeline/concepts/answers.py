"""What concepts of pictures, or of a subset, were found, as data."""

from __future__ import annotations

import io
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from storage import urls
from storage.results import Result

# What methods are called where they are shown; see ``choices.Method``.
METHODS = {
    "neurons": "neurons that fire",
    "published": "neurons, as published",
    "heads": "heads",
    "embedding": "the embedding",
}
# Tables that a result has where the subset's concepts, or the truth, were asked for.
OF_SUBSET = ("over", "precision")


@dataclass(frozen=True, eq=False)
class ConceptMap:
    """Where in a picture a concept comes from.

    Attributes
    ----------
    picture, method, text : str
    outside : float
        What the map leaves out of the concept's score: class token and means.
    map_rc : (rows, columns) float64
    """

    picture: str
    method: str
    text: str
    outside: float
    map_rc: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fires:
    """Where in a picture a neuron fires: its activation at each patch."""

    picture: str
    layer: int
    neuron: int
    map_rc: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts of pictures, of a subset, or both.

    Attributes
    ----------
    pictures, concepts, said : DataFrame or None
        As ``tables.CONCEPTS`` has them; None of a subset alone.
    over, precision : DataFrame or None
        As ``tables.OVER`` has them; None where they were not asked for, or the truth is not known.
    maps : list of ConceptMap
    fires : list of Fires
    where : str or None
        The subset.
    pixels : dict of str to (height, width, 3) uint8
        Pictures as the model saw them, by what they are called.
    """

    pictures: pd.DataFrame | None
    concepts: pd.DataFrame | None
    said: pd.DataFrame | None
    over: pd.DataFrame | None
    precision: pd.DataFrame | None
    maps: list[ConceptMap]
    fires: list[Fires]
    where: str | None
    pixels: dict[str, NDArray[np.uint8]] = field(metadata={"picture": True})

    @property
    def names(self) -> list[str]:
        """What the pictures are called."""
        return [] if self.pictures is None else self.pictures["picture"].unique().tolist()

    def methods(self, picture: str) -> list[dict[Hashable, Any]]:
        """Rows of ``pictures``, a row a method."""
        assert self.pictures is not None
        return self.pictures[self.pictures["picture"] == picture].to_dict("records")

    def of(self, picture: str, method: str) -> list[dict[Hashable, Any]]:
        """Concepts of a picture by a method, by rank."""
        return _of(self.concepts, picture, method).sort_values("rank").to_dict("records")

    def who_said(self, picture: str, method: str, text: str) -> list[dict[Hashable, Any]]:
        """Neurons or heads that speak for a concept or against it, the strongest first."""
        rows = _of(self.said, picture, method)
        rows = rows[rows["text"] == text]
        share = rows["coefficient"] * rows["weight"]
        order = np.argsort(-share.abs().to_numpy(), kind="stable")
        return rows.assign(share=share).iloc[order].to_dict("records")


def _of(table: pd.DataFrame | None, picture: str, method: str) -> pd.DataFrame:
    assert table is not None
    return table[(table["picture"] == picture) & (table["method"] == method)]


def said(method: str) -> str:
    """A method in words."""
    return METHODS.get(method, method)


def picture_file(number: int) -> str:
    """The file of a picture as the model saw it, by its place among the pictures."""
    return f"picture-{number:03d}.png"


def concepts_found(result: Result) -> Concepts:
    """What a finished run found."""
    kept = set(urls.list_names(result.url))
    names = ("pictures", "concepts", "said", *OF_SUBSET)
    tables = {
        name: result.table(name).to_pandas() if f"{name}.parquet" in kept else None
        for name in names
    }
    pictures = tables["pictures"]
    shown = [] if pictures is None else pictures["picture"].unique().tolist()
    files = {name: picture_file(number) for number, name in enumerate(shown)}
    return Concepts(
        **tables,
        maps=maps_of(result.arrays("maps")) if "maps.zarr" in kept else [],
        fires=fires_of(result.arrays("fires")) if "fires.zarr" in kept else [],
        where=result.config.get("where"),
        pixels={name: _read(result, file) for name, file in files.items() if file in kept},
    )


def maps_of(kept: xr.Dataset) -> list[ConceptMap]:
    """Maps as a result keeps them."""
    names = (kept[name].values.tolist() for name in ("picture", "method", "text", "outside"))
    return [ConceptMap(*of) for of in zip(*names, kept["map"].values, strict=True)]


def fires_of(kept: xr.Dataset) -> list[Fires]:
    """Where neurons fire, as a result keeps it."""
    names = (kept[name].values.tolist() for name in ("picture", "layer", "part"))
    return [Fires(*of) for of in zip(*names, kept["map"].values, strict=True)]


def _read(result: Result, file: str) -> NDArray[np.uint8]:
    data = urls.read_bytes(urls.join(result.url, file))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
