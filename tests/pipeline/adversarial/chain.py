"""A finished chain of adversarial images, made up: a result of every stage, without a model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr
from PIL import Image

from pipeline.adversarial.tables import CUES, DESCRIPTIONS, JUDGED, PICTURES
from pipeline.microworld import draw
from pipeline.pages.pictures import as_png
from storage.results import Result, as_table, save_result

SOURCES = ("second-order", "random", "none")
FILES = {source: f"{source}-0-0-0.png" for source in SOURCES}


def table(schema: pa.Schema, *rows: dict) -> pd.DataFrame:
    """Rows with the columns of a schema; what is not given is 0, empty, false or unknown."""
    plain = {pa.int64(): 0, pa.string(): "", pa.bool_(): False, pa.float64(): float("nan")}
    nothing = {of.name: plain.get(of.type) for of in schema}
    return pd.DataFrame([nothing | row for row in rows], columns=schema.names)


def cues() -> pd.DataFrame:
    second, random = {"source": "second-order"}, {"source": "random", "used": True}
    return table(
        CUES["cues"],
        second | {"text": "snow", "score": 0.9, "similarity": 0.1, "used": True},
        second | {
            "rank": 1, "text": "a heart", "score": 0.8, "similarity": 0.9,
            "why": "names the target",
        },
        second | {"rank": 2, "text": "<b> & night", "score": 0.3, "used": True},
        random | {"text": "sand", "score": -0.1},
        random | {"repeat": 1, "text": "grass", "score": 0.2},
    )  # fmt: skip


def descriptions() -> pd.DataFrame:
    kept = {"kept": True, "chosen": True}
    second = {"source": "second-order"}
    return table(
        DESCRIPTIONS["descriptions"],
        second | kept | {"text": "a star on snow, at night", "cues": ["snow", "<b> & night"]},
        second | {
            "number": 1, "text": "a heart on snow", "cues": ["snow"], "why": "names the target",
        },
        kept | {"source": "random", "text": "a star on sand", "cues": ["sand"]},
        kept | {"source": "none", "text": "a star", "cues": []},
    )  # fmt: skip


def pictures() -> pd.DataFrame:
    known = descriptions()[descriptions()["chosen"]].to_dict("records")
    return table(
        PICTURES["pictures"],
        *(
            {
                "source": row["source"], "text": row["text"], "file": FILES[row["source"]],
                "became": "drawn", "there": row["source"] != "none",
            }
            for row in known
        ),
        {"source": "random", "number": 1, "became": "refused", "why": "two shapes"},
    )  # fmt: skip


def judged() -> dict[str, pd.DataFrame]:
    second, random, none = ({"source": source} for source in SOURCES)
    told = [
        second | {"file": FILES["second-order"], "outcome": "fooled", "margin": 0.02},
        random | {"file": FILES["random"], "outcome": "not fooled", "margin": -0.1},
        random | {"number": 1, "outcome": "refused"},
        none | {"file": FILES["none"], "outcome": "not there"},
    ]
    rates = [
        second | {"pictures": 1, "there": 1, "fooled": 1, "share": 1.0},
        random | {"pictures": 2, "refused": 1, "there": 1, "share": 0.0},
        none | {"pictures": 1},
    ]
    rows = [
        second | {"repeats": 2, "fooled": 41.5, "deviation": 5.25, "share": 0.5, "low": 0.4,
                  "high": 0.6},
        random | {"repeats": 2, "fooled": 3.0, "deviation": 1.0, "share": 0.1, "low": 0.0,
                  "high": 0.2, "less": 0.4, "less_low": 0.3, "less_high": 0.5},
        none | {"repeats": 1, "fooled": 0.0},
    ]  # fmt: skip
    made = {"judged": told, "rates": rates, "table": rows}
    return {name: table(JUDGED[name], *rows) for name, rows in made.items()}


def save_chain(url: str, drawn: str = "star", target: str = "heart") -> Result:
    """Keep all of it at a store's place."""
    config = {"drawn": drawn, "target": target}
    about = {"source": "second-order", "layer": 2, "neuron": 17, "projection": 0.5}
    neurons, answers = table(CUES["neurons"], about), table(DESCRIPTIONS["answers"])
    files = {f: as_png(_drawn(i)) for i, f in enumerate(FILES.values())}

    def keep(job, schemas, tables, known=None, **kept):
        of = {name: as_table(table, schemas[name]) for name, table in tables.items()}
        return save_result(url, job, config, known or {}, tables=of, **kept)

    of = keep("adversarial_cues", CUES, {"cues": cues(), "neurons": neurons})
    told = keep(
        "adversarial_descriptions", DESCRIPTIONS,
        {"descriptions": descriptions(), "answers": answers},
    )  # fmt: skip
    made = keep("adversarial_pictures", PICTURES, {"pictures": pictures()}, files=files)
    stages = {"cues": of.name, "descriptions": told.name, "pictures": made.name}
    return keep(
        "adversarial", JUDGED, judged(), {"stages": stages, "maps": 1, "pictures": 4},
        arrays={"maps": maps()},
    )  # fmt: skip


def maps() -> xr.Dataset:
    """One, of the picture that took the model in."""
    map_rc = np.linspace(-0.01, 0.02, 16).reshape(1, 4, 4)
    pixels = np.asarray(_drawn(0).resize((32, 32)).convert("RGB"))[None]
    return xr.Dataset(
        {
            "map": (("picture", "row", "column"), map_rc),
            "pixels": (("picture", "y", "x", "channel"), pixels),
        },
        {"file": ("picture", np.array([FILES["second-order"]], object))},
    )


def _drawn(number: int) -> Image.Image:
    return Image.fromarray(draw.picture(7, "test", number)[0])
