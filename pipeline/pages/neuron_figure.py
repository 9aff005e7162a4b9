"""A picture of a neuron: its top images with where it fires on them, its texts, its strength."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.neurons.about import Histogram, NeuronAnswer
from pipeline.neurons.answers import CodeText

TEXTS = 8
BLUE, RED = "#4a6fa5", "#b5523b"


def neuron_figure(found: NeuronAnswer) -> Figure:
    """The picture of one neuron."""
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    # Two figures in one: long texts beside the bars do not push the images aside.
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2.2))[:, 0]
    axes = upper.subplots(2, 8)
    strongest = max((float(np.abs(i.activations).max()) for i in found.images), default=1.0)
    for place, image in enumerate(found.images):
        line, column = divmod(place, 4)
        left, right = axes[line, 2 * column], axes[line, 2 * column + 1]
        _pair(left, right, image.pixels, image.activations, strongest or 1.0)
        left.set_title(f"image {image.image}", size=8)
        right.set_title(f"{image.score:+.3f}", size=8)
    for axis in axes.flat:
        axis.set_axis_off()
    bars, histogram = lower.subplots(1, 2, width_ratios=(5, 3))
    _text_bars(bars, found.texts[:TEXTS])
    _histogram(histogram, found.norms)
    figure.suptitle(f"MLP layer {found.layer}, neuron {found.neuron}", size=11)
    return figure


def _pair(left: Axes, right: Axes, picture: NDArray, fires: NDArray, strongest: float) -> None:
    """The image, and the image under the map of where the neuron fires."""
    extent = (0, picture.shape[1], picture.shape[0], 0)
    left.imshow(picture)
    right.imshow(picture.mean(-1), cmap="gray", extent=extent)
    right.imshow(
        fires, cmap="RdBu_r", vmin=-strongest, vmax=strongest, alpha=0.6, extent=extent,
        interpolation="nearest",
    )  # fmt: skip


def _text_bars(axis: Axes, texts: Sequence[CodeText]) -> None:
    """Signed bars, the text beside each."""
    if not texts:
        axis.text(0.5, 0.5, "not coded", ha="center", va="center", color="#5b6575")
        axis.set_axis_off()
        return
    values = np.array([term.coefficient for term in texts])
    axis.barh(range(len(texts)), values, color=[BLUE if v > 0 else RED for v in values])
    names = [t.text if len(t.text) <= 48 else t.text[:47] + "…" for t in texts]
    axis.set_yticks(range(len(texts)), names, size=8, parse_math=False)
    axis.invert_yaxis()
    axis.axvline(0, color="black", lw=0.8)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title("texts of its code, by coefficient", size=8)


def _histogram(axis: Axes, norms: Histogram) -> None:
    axis.hist(norms.edges[:-1], norms.edges.tolist(), weights=norms.counts, color=BLUE, log=True)
    axis.set_xlabel("length of its effect, mean removed", size=8)
    axis.set_ylabel("images", size=8)
    axis.set_title(f"over {norms.over}", size=8)
    axis.tick_params(labelsize=7)
