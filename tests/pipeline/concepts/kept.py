"""Results of concepts, made up: of two pictures by two methods, and of a subset."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr
from PIL import Image

from pipeline.concepts.answers import picture_file
from pipeline.concepts.tables import CONCEPTS, OVER
from pipeline.microworld import draw
from pipeline.pages.pictures import as_png
from storage.results import Result, as_table, save_result

PICTURES = ("image 7, test/7", "a <b>.png")


def table(schema: pa.Schema, *rows: dict) -> pd.DataFrame:
    """Rows with the columns of a schema; what is not given is 0, empty or unknown."""
    plain = {pa.int64(): 0, pa.string(): "", pa.float64(): 0.0}
    nothing = {of.name: float("nan") if of.metadata else plain[of.type] for of in schema}
    return pd.DataFrame([nothing | row for row in rows], columns=schema.names)


def of_pictures() -> dict[str, pd.DataFrame]:
    pictures, concepts, said = [], [], []
    for number, picture in enumerate(PICTURES):
        at = {"picture": picture, "image": 7 if number == 0 else -1}
        pictures += [
            at | {"method": "neurons", "active": 12, "parts": 512},
            at | {"method": "heads", "active": 32, "parts": 32, "left": 0.425},
        ]
        neurons, heads = at | {"method": "neurons"}, at | {"method": "heads"}
        concepts += [
            neurons | {"text": "a red star", "score": 0.75, "parts": 4},
            neurons | {"rank": 1, "text": "two moons", "score": 0.01, "parts": 1},
            neurons | {"rank": 2, "text": "snow & ice", "score": -0.25, "parts": 1},
            heads | {"text": "night", "score": 0.5, "parts": 1},
        ]
        who = {"picture": picture, "method": "neurons", "text": "a red star", "layer": 2}
        said += [
            who | {"part": part, "coefficient": 0.5, "weight": 0.1 * part} for part in (3, 17, 5, 4)
        ]
        said += [
            who | {"text": "snow & ice", "part": 9, "coefficient": 0.5, "weight": -0.5},
            who | {"method": "heads", "text": "night", "layer": 3, "part": 1, "coefficient": 0.5,
                   "weight": 1.0},
        ]  # fmt: skip
    made = {"pictures": pictures, "concepts": concepts, "said": said}
    return {name: table(CONCEPTS[name], *rows) for name, rows in made.items()}


def of_subset() -> dict[str, pd.DataFrame]:
    neurons = {"method": "neurons"}
    over = [
        neurons | {"text": "snow", "inside": 0.5, "outside": 0.25, "difference": 0.25, "low": 0.2,
                   "high": 0.3, "low_all": 0.15, "high_all": 0.35, "share_inside": 0.8,
                   "share_outside": 0.125},
        neurons | {"rank": 1, "text": "sand", "difference": 0.01, "low": 0.001, "high": 0.02,
                   "low_all": -0.01, "high_all": 0.03},
    ]  # fmt: skip
    precise = [
        {"series": "neurons", "at": 5, "attribute": "all", "images": 160, "precision": 0.625,
         "low": 0.6, "high": 0.65, "more": 0.1, "more_low": 0.05, "more_high": 0.15},
        {"series": "neurons", "at": 5, "attribute": "shape", "images": 160, "precision": 0.9},
        {"series": "chance", "at": 5, "attribute": "all", "images": 160, "precision": 0.125},
    ]  # fmt: skip
    return {"over": table(OVER["over"], *over), "precision": table(OVER["precision"], *precise)}


def save_pictures(url: str) -> Result:
    """Keep concepts of pictures at a store's place, with maps."""
    files = {picture_file(n): as_png(drawn(n)) for n in range(len(PICTURES))}
    rng, names = np.random.default_rng(3), list(PICTURES)
    along = {
        name: ("concept", np.array(of, object))
        for name, of in {
            "picture": names, "method": ["neurons"] * 2, "text": ["a red star"] * 2,
        }.items()
    }  # fmt: skip
    maps = xr.Dataset(
        {
            "map": (("concept", "row", "column"), np.full((2, 4, 4), 0.05)),
            "outside": (("concept",), [-0.05, -0.05]),
        },
        along,
    )
    fires = xr.Dataset(
        {"map": (("neuron", "row", "column"), rng.normal(size=(1, 4, 4)))},
        {
            "picture": ("neuron", np.array(names[:1], object)),
            "layer": ("neuron", [2]),
            "part": ("neuron", [17]),
        },
    )
    return save_result(
        url, "concepts", {"image": ["7"], "where": None}, {"images": 1},
        tables={n: as_table(t, CONCEPTS[n]) for n, t in of_pictures().items()},
        arrays={"maps": maps, "fires": fires}, files=files,
    )  # fmt: skip


def save_subset(url: str) -> Result:
    """Keep concepts of a subset at a store's place."""
    return save_result(
        url, "concepts", {"where": 'background == "snow"'}, {"images": 160},
        tables={n: as_table(t, OVER[n]) for n, t in of_subset().items()},
    )  # fmt: skip


def drawn(number: int) -> Image.Image:
    return Image.fromarray(draw.picture(7, "test", number)[0])
