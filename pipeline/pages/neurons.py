"""Sections of the page: the most selective neurons of a layer, and what is known of all."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pipeline.neurons.truth import NeuronTruth, truth_facts

from .heads import signed
from .html import data_url, section
from .neuron_pictures import BLUE, NeuronPictures

SHOWN = 10


def most_selective(neurons: pd.DataFrame, layer: int, count: int = SHOWN) -> list[int]:
    """Neurons of a layer that act on few images only, the most selective first.

    By the length of their effect on the last of their top images over its mean length, among
    the half of the layer whose effect on the top images is longest: a neuron that does next to
    nothing is selective for no reason.

    Parameters
    ----------
    neurons : DataFrame
        The second-order job's table.
    """
    rows = neurons[(neurons["layer"] == layer) & (neurons["norm_mean"] > 0)]
    strong = rows[rows["norm_large"] >= rows["norm_large"].median()]
    order = (strong["norm_large"] / strong["norm_mean"]).sort_values(ascending=False, kind="stable")
    return [int(n) for n in strong.loc[order.index, "neuron"][:count]]


def neuron_sections(
    pictures: NeuronPictures, neurons: pd.DataFrame, truth: NeuronTruth | None, count: int = SHOWN
) -> list[str]:
    """The layer's most selective neurons, one section each; first how true their texts are.

    Parameters
    ----------
    pictures : NeuronPictures
    neurons : DataFrame
        The second-order job's table.
    truth : NeuronTruth or None
        Of the same layer.
    """
    sections = []
    layer = pictures.layer
    if truth is not None and len(truth.table):
        facts = truth_facts(truth)
        sections.append(
            section(
                f"Neurons of MLP layer {layer} against the truth",
                "How well each neuron tells the images that its text is true of from the others "
                "(area under the ROC curve of its firing; 0.5 is chance). The text is the one with "
                "the largest positive coefficient of the neuron's sparse code. "
                + ". ".join(f"{name.strip()}: {said}" for name, said in facts.items())
                + ".",
                plot=data_url(truth_figure(truth)),
            )
        )
    chosen = neurons[neurons["layer"] == layer].set_index("neuron")
    for neuron in most_selective(neurons, layer, count):
        row, texts = chosen.loc[neuron], pictures.texts(neuron, 4)
        sections.append(
            section(
                f"Neuron {neuron} of MLP layer {layer}",
                f"{signed(texts) or 'not coded'}. On its top images its effect is "
                f"{row['norm_large'] / row['norm_mean']:.1f} times its mean length or longer; "
                f"{row['explained_top']:.0%} of it there lies along one direction. Beside each "
                "image is where the neuron fires on it (red), and the score of its effect.",
                plot=data_url(pictures.figure(neuron)),
            )
        )
    return sections


def truth_figure(truth: NeuronTruth) -> Figure:
    """Areas of the neurons' own texts beside those of random ones."""
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    own, random = truth.table["auc"], truth.table["auc_random"]
    axis.hist(own, bins=40, range=(0, 1), color=BLUE, label="its own text")
    axis.hist(
        random, bins=40, range=(0, 1), color="#9aa5b5", alpha=0.7,
        label=f"random texts, mean of {len(truth.draws)}",
    )  # fmt: skip
    axis.axvline(0.5, color="black", lw=0.8)
    axis.set(xlabel="area under the ROC curve", ylabel="neurons")
    axis.legend(fontsize=8)
    return figure
