"""A page with a section for every kind of picture, from made-up numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.adversarial.answers import adversarial
from pipeline.concepts.answers import concepts_found
from pipeline.heads.shares import Shares
from pipeline.heatmaps.answers import Segmented
from pipeline.heatmaps.found import HeatMaps
from pipeline.heatmaps.split import TERMS
from pipeline.neurons.about import NeuronAnswer, TopImage
from pipeline.neurons.answers import CodeText
from pipeline.neurons.code_accuracy import DIRECTION, MEANS
from pipeline.neurons.lengths import Histogram
from pipeline.neurons.truth import NeuronTruth
from pipeline.pages.adversarial import adversarial_sections
from pipeline.pages.concepts import concepts_sections
from pipeline.pages.figures import (
    ablation_figures,
    residual_figure,
    roles_figure,
    share_figures,
    textspan_figure,
)
from pipeline.pages.heatmaps import heatmap_section
from pipeline.pages.html import Made, Section, link, page, section
from pipeline.pages.neuron_figure import codes_figure, neuron_figure, truth_figure
from pipeline.pages.segmentation import segmentation_sections
from tests.pipeline.adversarial.chain import save_chain
from tests.pipeline.concepts.kept import save_pictures, save_subset
from tests.pipeline.heatmaps.segmented import segmented

RNG = np.random.default_rng(5)
LONG = "an image of four striped purple moons on a beach, at night, with <b>& $x$ in a corner"


def descriptions(heads: int = 3) -> pd.DataFrame:
    texts = [LONG, "a red star", "snow", "sand", "3 < 4"]
    return pd.DataFrame(
        [
            {"layer": 2, "head": head, "rank": i, "text": text, "explained_variance": 0.3 / (i + 1)}
            for head in range(heads) for i, text in enumerate(texts)
        ]
    )  # fmt: skip


def accuracies() -> pd.DataFrame:
    """Every study; the changes of some steps may be none."""
    rows = [_row("none", "", "", "none", 0.72, 0.0)]
    rows += [_row("mlps", "all MLPs", "", "all MLPs", 0.63, -0.09)]
    for i in range(3):
        rows += [_row("layers", "layers 0 to l", str(i), f"layers {i}", 0.71 - i / 20, -i / 20)]
        rows += [_row("layers", "layer l alone", str(i), f"layer {i}", 0.72 - i / 90, -i / 90)]
        rows += [
            _row("heads", "one head", f"{i}.{h}", f"layer {i}, head {h}", 0.72, (h - i) / 50)
            for h in range(3)
        ]
        rows += [_row("chosen", "random heads", str(i), LONG, 0.71, -0.01)]
    classes = [{**rows[0], "scope": "class", "name": name} for name in ("star", "heart", "ring")]
    return pd.DataFrame([*rows, *classes])


def _row(study, series, at, ablation, accuracy, change) -> dict[str, object]:
    return {
        "study": study, "series": series, "at": at, "ablation": ablation, "scope": "all",
        "name": "all", "n": 900, "accuracy": accuracy, "low": accuracy - 0.02,
        "high": accuracy + 0.02, "change": change, "change_low": change - 0.015,
        "change_high": change + 0.015,
    }  # fmt: skip


def codes() -> pd.DataFrame:
    names = (("", ""), (f"layer 2, {MEANS}", ""), (f"layer 2, {DIRECTION}", ""), ("layer 2", "4"),
             ("layer 2", "8"))  # fmt: skip
    return pd.DataFrame(
        [
            _row("codes", series, at, series, 0.6 + i / 50, 0.0)
            for i, (series, at) in enumerate(names)
        ]
    )


def neuron(images: int = 8, side: int = 64) -> NeuronAnswer:
    shown = [
        TopImage(
            i, f"{i}.png", None, None, None, 0.5, 0.4 - i / 10, 1.0,
            RNG.normal(size=(4, 4)).astype(np.float32), None,
            RNG.integers(0, 255, (side, side, 3), np.uint8),
        )
        for i in range(images)
    ]  # fmt: skip
    texts = tuple(CodeText(text, 0.5 - i / 4) for i, text in enumerate((LONG, "snow", "$a$ star")))
    norms = Histogram(np.linspace(0, 0.01, 41), np.arange(40), "60 images")
    return NeuronAnswer(2, 17, {}, True, texts, shown, norms)


def heatmaps(head: str = "") -> HeatMaps:
    table = pd.DataFrame(
        {
            "text": [LONG, "snow"], "against": ["", "" if head else LONG], "head": head,
            "extreme": ["largest", "smallest"] if head else "", "coefficient": 0.1, "shown": -0.2,
            "share": [0.7, np.nan], **dict.fromkeys(TERMS, 0.01), "logit": 0.1, "residual": 1e-8,
        }
    )  # fmt: skip
    maps, pixels = RNG.normal(size=(2, 4, 4)), RNG.integers(0, 255, (64, 64, 3), np.uint8)
    return HeatMaps(
        "image 7, " + "folder/" * 9, 7, None if head else "does not exist", [1, 2, 3],
        [head] if head else [], "centred", "general", not head, maps, table, pixels,
    )  # fmt: skip


def truth() -> NeuronTruth:
    table = pd.DataFrame({"auc": RNG.uniform(0.3, 1, 90), "auc_random": RNG.normal(0.5, 0.03, 90)})
    return NeuronTruth(table, np.ones(90, np.float32), np.full(20, 0.5), 0, 60, "scores")


def segmentation() -> list[Section]:
    with tempfile.TemporaryDirectory() as folder:
        tables, sheet = segmented(Path(folder))
    made = Made("facet segment --store out")
    return segmentation_sections(Segmented(**tables), sheet, "label", "microworld:shape", [], made)


def at_work() -> list[Section]:
    """Concepts of pictures and of a subset, and adversarial images."""
    with tempfile.TemporaryDirectory() as folder:
        of_pictures = concepts_found(save_pictures(folder))
        of_subset = concepts_found(save_subset(folder))
        made = Made("facet adversarial --store out")
        return [
            *concepts_sections(of_pictures, "concepts", made),
            *concepts_sections(of_subset, "subset", made),
            *adversarial_sections(adversarial(save_chain(folder, LONG, "heart")), made=made),
        ]


def sections() -> list[Section]:
    shares = Shares(RNG.normal(0.02, 0.02, (4, 12)), RNG.normal(0.05, 0.05, 5), 0.01, 900)
    attributes = ["shape", "colour", "texture", "size", "count", "place", "background"]
    roles = roles_figure(RNG.uniform(size=(4, 3, 7)), attributes, [(3, 0), (3, 2)])
    distances = 10 ** RNG.normal(-6, 0.1, 90), 10 ** RNG.normal(-4, 0.1, 90)
    studies = [section(study, plot=[p]) for study, p in ablation_figures(accuracies()).items()]
    return [
        section("Shares", plot=share_figures(shares)),
        section("How exact", plot=[residual_figure(*distances)]),
        section("Texts", found="Three heads.", plot=[textspan_figure(descriptions(), 2)]),
        section("Roles", plot=[roles], header=("head", "share"), rows=[("layer 3, head 0", "72%")]),
        section("Neuron", plot=[neuron_figure(neuron())], notes=["Weights are random."]),
        heatmap_section(heatmaps(), "heat", Made("facet heatmap")),
        heatmap_section(heatmaps("3.0"), "heat-of-a-head"),
        section("Truth", plot=[truth_figure(truth())], links=[link("roles", "#roles")]),
        section("Codes", plot=[codes_figure(codes(), 2)], made=Made("facet omp " + "--x y " * 40)),
        *studies,
        *segmentation(),
        *at_work(),
    ]


def whole() -> str:
    lead = "s3://a-bucket/with-a-long-name/" + "without-any-space" * 8
    return page("Every picture", lead, sections(), ["Accuracy is at chance."])
