"""What one neuron means, as data: its texts, its top images with where it fires, its strength."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.images.again import load_again
from pipeline.images.errors import BadImage, SourceUnavailable
from pipeline.models import VisionModel
from pipeline.texts.encoding import store_model
from storage.errors import FacetError
from storage.results import Result
from storage.store import Store

from .answers import IMAGES, CodeText, codes_of, terms
from .choices import parse_mlp_layers
from .forward import NeuronPass
from .lengths import MOST_IMAGES, Histogram, histogram
from .results import latest_effects

# Of an image that is not to be had.
GREY = 211


@dataclass(frozen=True, eq=False)
class TopImage:
    """An image that a neuron acts on, and where in it.

    Attributes
    ----------
    image : int
        Its number in the store.
    key, uri : str or None
        Its name, and where it was.
    label, caption : str or None
    norm, score, peak : float
        As in the table ``top_images``.
    activations : (rows, columns) float32
        Of the neuron, at the patches.
    unreadable : str or None
        Why the image is not to be had as it was; it is grey then.
    pixels : (height, width, 3) uint8
        As the model sees it.
    """

    image: int
    key: str
    uri: str | None
    label: str | None
    caption: str | None
    norm: float
    score: float
    peak: float
    activations: NDArray[np.float32]
    unreadable: str | None
    pixels: NDArray[np.uint8] = field(metadata={"picture": True})


@dataclass(frozen=True, eq=False)
class NeuronAnswer:
    """What one neuron means.

    Attributes
    ----------
    layer, neuron : int
    figures : dict of str to float
        Its row of the table ``neurons``; NaN where a figure is not known.
    coded : bool
        Whether there are codes of its layer.
    texts : tuple of CodeText
        Its code, by rank.
    images : list of TopImage
        The first of its top images, by rank.
    norms : Histogram
    """

    layer: int
    neuron: int
    figures: dict[str, float]
    coded: bool
    texts: tuple[CodeText, ...]
    images: list[TopImage]
    norms: Histogram


class NeuronReader:
    """Answers for neurons of one MLP layer.

    Parameters
    ----------
    store : Store
    model : VisionModel
        The store's own.
    layer : int
    effects : Result
        Of the second-order job.
    codes : Result or None
        Of its directions, where there are any.
    most : int
        Images that histograms are over, about.
    """

    def __init__(
        self,
        store: Store,
        model: VisionModel,
        layer: int,
        effects: Result,
        codes: Result | None,
        most: int = MOST_IMAGES,
    ) -> None:
        self.store, self.model, self.layer, self._most = store, model, layer, most
        self._neurons = _of_layer(effects, "neurons", layer)
        self._top = _of_layer(effects, "top_images", layer)
        self._codes = None if codes is None else _of_layer(codes, "codes", layer)
        self._pass = NeuronPass(model, [layer])

    def about(self, neuron: int) -> NeuronAnswer:
        """What a neuron means."""
        top = self._top[self._top["neuron"] == neuron].sort_values("rank")
        row = self._neurons[self._neurons["neuron"] == neuron].iloc[0]
        return NeuronAnswer(
            self.layer,
            neuron,
            {str(n): float(v) for n, v in row.items() if n not in ("layer", "neuron")},
            self._codes is not None,
            () if self._codes is None else terms(self._codes, self.layer, neuron),
            self.images(neuron),
            histogram(self.store, self.layer, neuron, top["norm"].to_numpy(), self._most),
        )

    def images(self, neuron: int) -> list[TopImage]:
        """The first of a neuron's top images, by rank, and where in them it fires."""
        top = self._top[self._top["neuron"] == neuron].sort_values("rank")[:IMAGES]
        read = [self._read(index) for index in top["image"].tolist()]
        if not read:
            return []
        maps = self.activations(np.stack([pixels for pixels, _ in read]), neuron)
        found = []
        for row, (pixels, why), plane in zip(top.to_dict("records"), read, maps, strict=True):
            known = self.store.images(row["image"], row["image"] + 1).to_pylist()[0]
            names = {name: known[name] for name in ("key", "uri", "label", "caption")}
            figures = {name: row[name] for name in ("image", "norm", "score", "peak")}
            found.append(
                TopImage(**names, **figures, activations=plane, unreadable=why, pixels=pixels)
            )
        return found

    def _read(self, index: int) -> tuple[NDArray[np.uint8], str | None]:
        try:
            return self.model.preprocess.to_uint8(load_again(self.store, index)), None
        except (BadImage, SourceUnavailable) as error:
            return np.full((*self.model.preprocess.size, 3), GREY, np.uint8), str(error)

    def activations(self, pixels_bhwc: NDArray[np.uint8], neuron: int) -> NDArray[np.float32]:
        """Activations of a neuron at the patches, (image, rows, columns)."""
        pixels = torch.from_numpy(pixels_bhwc).to(self.model.device)
        images_bchw = self.model.preprocess.to_tensor(pixels)
        tokens_bt1 = self._pass.token_maps(images_bchw, self.layer, [neuron])
        found: NDArray[np.float32] = tokens_bt1[:, self.model.prefix :, 0].float().cpu().numpy()
        return found.reshape(-1, *self.model.grid)


def _of_layer(result: Result, name: str, layer: int) -> pd.DataFrame:
    table = result.table(name).to_pandas()
    return table[table["layer"] == layer]


def about_neuron(
    store: Store, layer: int, neuron: int, pretrained: str | None = None
) -> tuple[NeuronAnswer, Result]:
    """What a neuron means, by the second-order effects that were asked for last and their codes.

    Returns
    -------
    answer : NeuronAnswer
    effects : Result

    Raises
    ------
    FacetError
        If there is no such neuron, or nothing is known of its layer.
    """
    parse_mlp_layers(str(layer), store.meta)
    if not 0 <= neuron < store.meta.neurons:
        raise FacetError(
            f"neuron {neuron}: the layers of this model have neurons 0 to {store.meta.neurons - 1}"
        )
    effects = latest_effects(store, [layer])
    codes = codes_of(store, effects, layer)
    model = store_model(store, pretrained)
    return NeuronReader(store, model, layer, effects, codes).about(neuron), effects
