"""A picture of a neuron: its top images with where it fires on them, its texts, its strength."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.images.again import load_again
from pipeline.images.errors import BadImage, SourceUnavailable
from pipeline.models import VisionModel
from pipeline.neurons.forward import NeuronPass
from storage import neurons, urls
from storage.store import Store

IMAGES, TEXTS = 8, 8
BLUE, RED = "#4a6fa5", "#b5523b"


class NeuronPictures:
    """Draws neurons of one MLP layer.

    Parameters
    ----------
    store : Store
    model : VisionModel
        The store's own.
    layer : int
    top_images : DataFrame
        The second-order job's table.
    codes : DataFrame or None
        The table of codes, where there is one.

    Attributes
    ----------
    unreadable : dict of int to str
        Images that could not be read again or are others now, and why; they are drawn grey.
    """

    def __init__(
        self,
        store: Store,
        model: VisionModel,
        layer: int,
        top_images: pd.DataFrame,
        codes: pd.DataFrame | None,
    ) -> None:
        self.store, self.model, self.layer = store, model, layer
        self.unreadable: dict[int, str] = {}
        self._top = top_images[top_images["layer"] == layer]
        self._codes = None if codes is None else codes[codes["layer"] == layer]
        self._pass = NeuronPass(model, [layer])

    def top(self, neuron: int, count: int = IMAGES) -> pd.DataFrame:
        """Its first top images, by rank."""
        return self._top[self._top["neuron"] == neuron].sort_values("rank")[:count]

    def texts(self, neuron: int, count: int = TEXTS) -> list[tuple[str, float]]:
        """Its first texts and their coefficients; none where it was not coded."""
        if self._codes is None:
            return []
        rows = self._codes[self._codes["neuron"] == neuron].sort_values("rank")[:count]
        return list(zip(rows["text"], rows["coefficient"].astype(float), strict=True))

    def figure(self, neuron: int) -> Figure:
        """The picture of one neuron."""
        top = self.top(neuron)
        pixels = self.pixels(top["image"].tolist())
        maps = self.maps(pixels, neuron)
        figure = plt.figure(figsize=(10.5, 6.4), layout="constrained")
        # Two figures in one: long texts beside the bars do not push the images aside.
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2.2))[:, 0]
        axes = upper.subplots(2, 8)
        strongest = float(np.abs(maps).max()) if maps.size else 1.0
        for place, (row, picture, fires) in enumerate(
            zip(top.itertuples(), pixels, maps, strict=True)
        ):
            line, column = divmod(place, 4)
            left, right = axes[line, 2 * column], axes[line, 2 * column + 1]
            _pair(left, right, picture, fires, strongest or 1.0)
            left.set_title(f"image {row.image}", size=8)
            right.set_title(f"{row.score:+.3f}", size=8)
        for axis in axes.flat:
            axis.set_axis_off()
        bars, histogram = lower.subplots(1, 2, width_ratios=(5, 3))
        _text_bars(bars, self.texts(neuron))
        self._histogram(histogram, neuron)
        figure.suptitle(f"MLP layer {self.layer}, neuron {neuron}", size=11)
        return figure

    def pixels(self, images: Sequence[int]) -> NDArray[np.uint8]:
        """Images as the model sees them, (image, height, width, 3)."""
        found = [self._pixels(index) for index in images]
        return np.stack(found) if found else np.zeros((0, *self.model.preprocess.size, 3), np.uint8)

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        try:
            return self.model.preprocess.to_uint8(load_again(self.store, index))
        except (BadImage, SourceUnavailable) as error:
            self.unreadable[index] = str(error)
            return np.full((*self.model.preprocess.size, 3), 211, np.uint8)

    def maps(self, pixels_bhwc: NDArray[np.uint8], neuron: int) -> NDArray[np.float32]:
        """Activations of a neuron at the patches, (image, rows, columns)."""
        rows, columns = self.model.grid
        if not len(pixels_bhwc):
            return np.zeros((0, rows, columns), np.float32)
        pixels = torch.from_numpy(pixels_bhwc).to(self.model.device)
        images_bchw = self.model.preprocess.to_tensor(pixels)
        tokens_bt1 = self._pass.token_maps(images_bchw, self.layer, [neuron])
        found: NDArray[np.float32] = tokens_bt1[:, self.model.prefix :, 0].float().cpu().numpy()
        return found.reshape(-1, rows, columns)

    def norms(self, neuron: int) -> tuple[NDArray, str]:
        """Lengths of its mean-removed effects, and over which images.

        All images of which the store keeps norms; the top images alone where it keeps none.
        """
        if len(self._norms_bn):
            return self._norms_bn[:, neuron], f"{len(self._norms_bn):,} images"
        top = self.top(neuron, len(self._top))
        return top["norm"].to_numpy(), f"its {len(top):,} top images alone"

    @cached_property
    def _norms_bn(self) -> NDArray:
        url, meta = self.store.url, self.store.meta
        shards = sorted(self.store.done_shards() & neurons.done(url, self.layer, "norms"))
        if not shards:
            return np.zeros((0, meta.mlp_width))
        group: Any = urls.open_group(neurons.group_url(url, self.layer), mode="r")
        found = np.concatenate([np.asarray(group["norms"][slice(*meta.rows(s))]) for s in shards])
        return found[np.isfinite(found).all(1)]

    def _histogram(self, axis: Axes, neuron: int) -> None:
        values, over = self.norms(neuron)
        axis.hist(values, bins=40, color=BLUE, log=True)
        axis.set_xlabel("length of its effect, mean removed", size=8)
        axis.set_ylabel("images", size=8)
        axis.set_title(f"over {over}", size=8)
        axis.tick_params(labelsize=7)


def _pair(left: Axes, right: Axes, picture: NDArray, fires: NDArray, strongest: float) -> None:
    """The image, and the image under the map of where the neuron fires."""
    extent = (0, picture.shape[1], picture.shape[0], 0)
    left.imshow(picture)
    right.imshow(picture.mean(-1), cmap="gray", extent=extent)
    right.imshow(
        fires, cmap="RdBu_r", vmin=-strongest, vmax=strongest, alpha=0.6, extent=extent,
        interpolation="nearest",
    )  # fmt: skip


def _text_bars(axis: Axes, texts: Sequence[tuple[str, float]]) -> None:
    """Signed bars, the text beside each."""
    if not texts:
        axis.text(0.5, 0.5, "not coded", ha="center", va="center", color="#5b6575")
        axis.set_axis_off()
        return
    values = np.array([value for _, value in texts])
    axis.barh(range(len(texts)), values, color=[BLUE if v > 0 else RED for v in values])
    names = [text if len(text) <= 48 else text[:47] + "…" for text, _ in texts]
    axis.set_yticks(range(len(texts)), names, size=8, parse_math=False)
    axis.invert_yaxis()
    axis.axvline(0, color="black", lw=0.8)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title("texts of its code, by coefficient", size=8)
