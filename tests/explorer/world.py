"""Stores with a result of every kind, as the explorer's tests look at them.

``world``: the embedded world by its own model, with all that can be found of it. ``other``: the
same pictures by a random model, which is held against the first. ``folder``: picture files, one of
them damaged and one with a long name, of which nothing was found. ``shared``: units that the
embedded world's models share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from jobs import (
    ablate,
    adversarial,
    align,
    compare,
    concepts,
    extract,
    heatmap,
    index,
    label,
    omp,
    reduce,
    repair,
    rosetta,
    search,
    second_order,
    segment,
    textspan,
)
from pipeline.cluster import machines
from pipeline.microworld import draw
from tests import tiny

IMAGES, PICTURES = 160, 6
SOURCE = f"microworld:n={IMAGES},seed=7,split=test"
LONG = "a picture with a name as long as some people give to theirs, and a café in it"
SMALL = tiny.tiny({"width": 32, "layers": 2, "head_width": 8}, {"width": 16}, embed_dim=20)


@dataclass(frozen=True)
class World:
    """Where they are."""

    stores: tuple[str, ...]
    rosetta: str

    @classmethod
    def of(cls, folder: Path) -> World:
        """Those of a folder."""
        names = ("world", "other", "folder")
        return cls(tuple(str(folder / name) for name in names), str(folder / "shared"))


def made_in(folder: Path) -> World:
    """What was made in a folder before, or is made now."""
    found = World.of(folder)
    return found if Path(found.rosetta).exists() else make(folder)


def make(folder: Path) -> World:
    """Everything, in this process."""
    machines.work("here")
    store, other = str(folder / "world"), str(folder / "other")
    extract.main(
        extract.ExtractConfig(
            SOURCE, "microworld", store, "microworld", components=("heads", "mlps", "tokens"),
            shard_size=128, workers="here",
        )
    )  # fmt: skip
    small = tiny.write_config(folder, SMALL)
    plain = extract.ExtractConfig(SOURCE, small, other, "none", workers="here")
    extract.main(replace(plain, images=SOURCE.replace(str(IMAGES), "60")))
    files = pictures(folder / "pictures")
    extract.main(replace(plain, images=files, store=str(folder / "folder"), max_bad=0.5))
    find(store, other)
    units(str(folder / "shared"))
    return World.of(folder)


def find(store: str, other: str) -> None:
    """A result of every job over a store."""
    reduce.main(reduce.ReduceConfig(store, workers="here"))
    textspan.main(textspan.TextSpanConfig(store, "microworld", texts_per_head=12, workers="here"))
    label.main(label.LabelConfig(store, workers="here"))
    second_order.main(second_order.SecondOrderConfig(store, mlp_layers="2", workers="here"))
    omp.main(omp.OmpConfig(store, "2", "microworld", terms=4, workers="here"))
    classes = "microworld:shape"
    ablate.main(ablate.AblateConfig(store, classes, ("mlps", "heads", "layers"), workers="here"))
    where, two = 'label in ("star", "heart")', f"{classes}=star,heart"
    repair.main(
        repair.RepairConfig(
            store, two, "background", property="background", where=where, workers="here"
        )
    )
    compare.main(
        compare.CompareConfig(
            store, 'background == "night"', 'background == "sand"', workers="here"
        )
    )
    index.main(index.IndexConfig(store, blocks="last:1", embedding=True, workers="here"))
    search.main(search.SearchConfig(store, ("0",), text=("snow",), top=4, workers="here"))
    heatmap.main(heatmap.HeatmapConfig(store, "7", text=("a red star", "snow")))
    segment.main(
        segment.SegmentConfig(
            store, classes, methods=("tokens", "random"), where="index < 12", class_="label",
            workers="here",
        )
    )  # fmt: skip
    concepts.main(
        concepts.ConceptsConfig(store, ("7",), method=("neurons", "heads"), workers="here")
    )
    adversarial.main(
        adversarial.AdversarialConfig(
            store, "star", "heart", sources=("second-order", "random"), neurons=20, repeats=1,
            ask=8, descriptions=2, pictures=2, workers="here",
        )
    )  # fmt: skip
    align.main(align.AlignConfig(other, store, "microworld", layers="last:2", workers="here"))


def units(place: str) -> None:
    """Units that three models share."""
    models = ("microworld-cnn", "microworld-mae")
    rosetta.main(
        rosetta.RosettaConfig(
            models, place, SOURCE.replace(str(IMAGES), "60"), shard_size=32, workers="here"
        )
    )


def pictures(folder: Path) -> str:
    """Picture files of the embedded world, and a file that is none."""
    folder.mkdir()
    for at in range(PICTURES):
        name = LONG if at == 0 else f"{at}"
        Image.fromarray(draw.picture(7, "test", at)[0]).save(folder / f"{name}.png")
    (folder / "damaged.png").write_bytes(b"no picture")
    return str(folder)
