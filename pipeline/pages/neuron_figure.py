"""Pictures of neurons: top images with where they fire on them, texts, strength, truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from pipeline.neurons.about import NeuronAnswer
from pipeline.neurons.answers import CodeText
from pipeline.neurons.code_accuracy import DIRECTION, MEANS
from pipeline.neurons.lengths import Histogram
from pipeline.neurons.truth import NeuronTruth

from .figures import accuracy_axis, below, errors
from .fragments import Bar, bars, render
from .pictures import data_url, heat, small
from .plots import BLUE, GREY, INK, ORANGE, plot

TEXTS = 8


def neuron_figure(found: NeuronAnswer) -> Markup:
    """One neuron: its top images, and beside each where it fires; its texts; its strength."""
    strongest = max((float(np.abs(i.activations).max()) for i in found.images), default=0.0)
    pictures = [
        (
            data_url(small(image.pixels)),
            data_url(heat(image.pixels, image.activations / (strongest or 1.0))),
            f"image {image.image}, score {image.score:+.3f}",
        )
        for image in found.images
    ]
    return render(
        "neuron.html", pictures=pictures, strongest=f"{strongest:.2f}",
        texts=found.texts and text_bars(found.texts[:TEXTS]), coded=found.coded,
        over=found.norms.over, strength=histogram(found.norms),
    )  # fmt: skip


def text_bars(texts: Sequence[CodeText]) -> Markup:
    """Texts of a code with their coefficients."""
    return bars([Bar(t.text, f"{t.coefficient:+.3f}", t.coefficient) for t in texts])


def histogram(norms: Histogram) -> Markup:
    """How long the neuron's effects are over images."""

    def draw(axis: Axes) -> None:
        axis.hist(
            norms.edges[:-1], norms.edges.tolist(), weights=norms.counts, color=BLUE, log=True
        )
        axis.set(xlabel="length of its effect, mean removed", ylabel="images")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())

    return plot(draw, f"Histogram of the neuron's effect over {norms.over}", 2.0)


def truth_figure(truth: NeuronTruth) -> Markup:
    """Areas of the neurons' own texts beside those of random ones."""
    own, random = truth.table["auc"], truth.table["auc_random"]

    def draw(axis: Axes) -> None:
        axis.hist(own, bins=40, range=(0, 1), color=BLUE, label="its own text")
        axis.hist(
            random, bins=40, range=(0, 1), color=ORANGE, histtype="step", lw=1.5,
            label=f"random texts, mean of {len(truth.draws)}",
        )  # fmt: skip
        axis.axvline(0.5, color=INK, ls=":", lw=1, label="chance, 0.5")
        axis.set(xlabel="area under the ROC curve", ylabel="neurons")
        below(axis, 2)

    return plot(draw, "Histogram of the areas of neurons' texts, beside random texts", 2.7)


def codes_figure(accuracy: pd.DataFrame, layer: int) -> Markup:
    """Accuracy against a code's texts, between its two bounds (Gandelsman 2025, Figure 3.4)."""
    whole = accuracy[accuracy["scope"] == "all"].set_index("series")
    name = f"layer {layer}"
    codes = whole.loc[[name]]
    bounds = {"": "nothing replaced", f"{name}, {DIRECTION}": DIRECTION, f"{name}, {MEANS}": MEANS}

    def draw(axis: Axes) -> None:
        at = codes["at"].astype(int).to_numpy()
        axis.errorbar(at, codes["accuracy"], errors(codes), marker="o", color=BLUE,
                      label="code of m texts")  # fmt: skip
        for (series, label), style in zip(bounds.items(), ("-", "--", ":"), strict=True):
            axis.axhline(float(whole["accuracy"][series]), color=GREY, ls=style, label=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks(at, [str(m) for m in at])
        axis.set_xlabel("texts in the code of each neuron, m")
        accuracy_axis(axis.yaxis)
        below(axis, 2)

    return plot(draw, f"Accuracy by the number of texts, MLP layer {layer}", 3.2)
