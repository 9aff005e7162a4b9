"""Neurons of a layer, and one of them: in words, with the images that it acts on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.explorer.library import NotHere, Opened
from pipeline.explorer.model import NotYet
from pipeline.identity import over
from pipeline.neurons.answers import IMAGES, CodeText, codes_of, signed, terms
from pipeline.neurons.choices import beside_pool
from pipeline.neurons.lengths import Histogram, histogram
from storage.errors import FacetError
from storage.results import Result

if TYPE_CHECKING:
    from pipeline.explorer.library import Library
    from pipeline.explorer.model import Loaded

# Neurons on a page of the list, and texts of each there.
PAGE, FIRST = 50, 3
# Images that a histogram is over, about, so that nobody waits for it.
READ = 2000
# Columns that neurons are sorted by, by what they are called; the largest first.
ORDERS = {
    "length": "norm_large",
    "mean": "norm_mean",
    "largest": "norm_max",
    "direction": "explained_top",
    "truth": "auc",
}


@dataclass(frozen=True, eq=False)
class Layer:
    """What is known of a layer's neurons.

    Attributes
    ----------
    effects : Result
        Of the second-order job.
    coded : Result or None
        Of its directions.
    neurons : DataFrame
        By neuron: the figures of the second-order job; ``auc``, ``auc_random``, NaN where the
        truth is not known; ``left``, what the longest code leaves, NaN where there is none.
    codes : DataFrame
        As ``omp/codes`` has it; empty where there are none.
    truth : DataFrame
        As ``omp/truth`` has it, by neuron; empty where the truth is not known.
    top : DataFrame
        As ``second_order/top_images`` has it.
    """

    effects: Result
    coded: Result | None
    neurons: pd.DataFrame
    codes: pd.DataFrame
    truth: pd.DataFrame
    top: pd.DataFrame


def layers_of(here: Opened) -> list[int]:
    """MLP layers whose neurons were looked at."""
    found = here.results("second_order")
    return sorted({layer for result in found for layer in result.provenance["mlp_layers"]})


def layer_of(here: Opened, layer: int) -> Layer:
    """What is known of a layer's neurons, by the effects that were asked for last.

    Raises
    ------
    NotHere
        If nothing is known of the layer.
    """
    if layer not in layers_of(here):
        raise NotHere(f"nothing is known yet of the neurons of MLP layer {layer}")
    return here.cached(("neurons", layer), lambda: _read(here, layer))


def _read(here: Opened, layer: int) -> Layer:
    of = (r for r in here.results("second_order") if layer in r.provenance["mlp_layers"])
    effects = next(of)
    coded = codes_of(here.store, effects, layer)
    neurons = _table(effects, "neurons", layer).set_index("neuron")
    top = _table(effects, "top_images", layer)
    empty = pd.DataFrame({n: [] for n in ("layer", "neuron", "rank", "text", "coefficient")})
    codes = empty if coded is None else _table(coded, "codes", layer).assign(layer=layer)
    truth = pd.DataFrame({"auc": [], "auc_random": []}, dtype=float)
    if coded is not None and str(layer) in coded.provenance["measured"]:
        truth = _table(coded, "truth", layer).set_index("neuron")
    left = pd.Series(dtype=float)
    if coded is not None:
        fits = _table(coded, "fits", layer).sort_values("most")
        left = fits.drop_duplicates("neuron", keep="last").set_index("neuron")["residual"]
    neurons = neurons.join(truth[["auc", "auc_random"]]).join(left.rename("left"))
    return Layer(effects, coded, neurons, codes, truth, top)


def _table(result: Result, name: str, layer: int) -> pd.DataFrame:
    table = result.table(name).to_pandas()
    return table[table["layer"] == layer].drop(columns="layer")


@dataclass(frozen=True)
class Row:
    """A neuron of the list.

    Attributes
    ----------
    neuron : int
    texts : str
        The first of its code, with signs; empty where it has none.
    length, mean, largest : float
        Of its mean-removed effect, where an image's embedding has length 1: on its top images at
        least, on average, at most.
    direction : float
        Share of the squared lengths on its top images along one direction.
    truth, chance : float
        Area under the ROC curve of its firing for its first text, and for random texts; NaN where
        the truth is not known.
    """

    neuron: int
    texts: str
    length: float
    mean: float
    largest: float
    direction: float
    truth: float
    chance: float


@dataclass(frozen=True)
class NeuronList:
    """A part of a layer's neurons.

    Attributes
    ----------
    layer : int or None
        None where nothing is known of any layer.
    layers : list of int
        Those of which neurons are known.
    order, text : str
        What they are sorted by, and a part of a text that their codes have.
    rows : list of Row
    start, total : int
        Where in the list these stand, and neurons in it.
    neurons, silent, images : int
        Of the layer: neurons, those without any effect, images that effects are over.
    coded, known, older : bool
        Whether there are codes, whether the truth is known, whether the store holds other images
        now.
    mlp_layers, hint, codes_hint : str
        The layers of the model that have such effects, in words; the commands that find effects
        and codes.
    beside : str
        What such effects do not hold; empty where they hold all.
    """

    layer: int | None
    layers: list[int]
    order: str
    text: str
    rows: list[Row]
    start: int
    total: int
    neurons: int
    silent: int
    images: int
    coded: bool
    known: bool
    older: bool
    mlp_layers: str
    hint: str
    codes_hint: str
    beside: str


def neuron_list(here: Opened, layer: int | None, order: str, text: str, start: int) -> NeuronList:
    """A page of a layer's neurons; of the last layer that is known unless one is named.

    Raises
    ------
    FacetError
        If there is no such layer or order.
    """
    if order not in ORDERS:
        raise FacetError(f"neurons are sorted by {', '.join(ORDERS)}, not by {order!r}")
    layers = layers_of(here)
    said = f"0 to {here.meta.second_order_layers - 1}"
    hints = here.hint("second-order"), here.hint("omp"), beside_pool(here.meta)
    if layer is None and not layers:
        return NeuronList(
            None, [], order, text, [], 0, 0, here.meta.neurons, 0, 0, False, False, False, said,
            *hints,
        )  # fmt: skip
    layer = layers[-1] if layer is None else layer
    of = layer_of(here, layer)
    chosen = of.neurons
    if text:
        named = of.codes["text"].str.contains(text, case=False, regex=False)
        chosen = chosen[chosen.index.isin(of.codes.loc[named, "neuron"])]
    column = ORDERS[order]
    chosen = chosen.sort_values(column, ascending=False, kind="stable", na_position="last")
    rows = [
        Row(
            int(neuron), signed(terms(of.codes, layer, int(neuron))[:FIRST]),
            *map(float, figures),
        )
        for neuron, *figures in chosen[
            [*(c for c in ORDERS.values() if c != "auc"), "auc", "auc_random"]
        ][start : start + PAGE].itertuples(name=None)
    ]  # fmt: skip
    return NeuronList(
        layer, layers, order, text, rows, start, len(chosen), len(of.neurons),
        int((of.neurons["norm_max"] == 0).sum()), of.effects.provenance["images"],
        of.coded is not None, not of.truth.empty, is_older(here, of.effects), said, *hints,
    )  # fmt: skip


def is_older(here: Opened, result: Result) -> bool:
    """Whether the store holds other images now than those that a result is over."""
    then = result.provenance.get("identity", {}).get("over")
    return then is not None and then != here.cached("over", lambda: over(here.store))


@dataclass(frozen=True)
class Acted:
    """An image on which a neuron's effect is long: see the table ``top_images``."""

    image: int
    key: str
    label: str | None
    caption: str | None
    norm: float
    score: float
    peak: float


@dataclass(frozen=True, eq=False)
class Fired:
    """Where a neuron fires on an image.

    Attributes
    ----------
    image : int
    activations : (rows, columns) float32
        Of the neuron, at the patches.
    unreadable : str or None
        Why the image is not to be had as it was; it is grey then.
    pixels : (height, width, 3) uint8
        As the model saw it.
    """

    image: int
    activations: NDArray[np.float32]
    unreadable: str | None
    pixels: NDArray[np.uint8] = field(metadata={"picture": True})


@dataclass(frozen=True, eq=False)
class NeuronView:
    """What one neuron means.

    Attributes
    ----------
    layer, neuron : int
    place, neurons : int
        Its place by length among the layer's neurons, from 1, and how many there are.
    before, after : int or None
        The neurons of the places beside it.
    figures : dict of str to float
        Its row of the table ``neurons``; NaN where a figure is not known.
    coded : bool
        Whether there are codes of its layer.
    texts : tuple of CodeText
        Its code, by rank.
    left : float
        Share of the length of its direction that the code leaves; NaN where it has none.
    truth : dict of str to object
        Its row of the table ``truth``; empty where the truth is not known.
    images : list of Acted
        The first of its top images, by rank.
    norms : Histogram
    over : int
        Images that its figures are over.
    older : bool
        Whether the store holds other images now.
    result, codes_hint : str
        Where the effects are kept; the command that finds codes.
    fires : list of Fired or None
        Where it fires on these images, where that was asked for.
    why : str
        Why that cannot be shown; empty where it can.
    waiting : str
        What it waits for, in words, where it is to be asked again in a moment.
    """

    layer: int
    neuron: int
    place: int
    neurons: int
    before: int | None
    after: int | None
    figures: dict[str, float]
    coded: bool
    texts: tuple[CodeText, ...]
    left: float
    truth: dict[str, object]
    images: list[Acted]
    norms: Histogram
    over: int
    older: bool
    result: str
    codes_hint: str
    fires: list[Fired] | None
    why: str
    waiting: str

    @property
    def title(self) -> str:
        """Its first text that is not taken off."""
        return next((t.text for t in self.texts if t.coefficient > 0), "")

    @property
    def strongest(self) -> float:
        """The largest activation, whatever its sign: the same colour stands for it on all maps."""
        return strongest(self.fires or [])

    @property
    def heights(self) -> list[float]:
        """Of the histogram's bars, 0 … 1, by the logarithm of their images."""
        logs = np.log10(1 + self.norms.counts)
        return (logs / (logs.max() or 1)).tolist()


def neuron_view(library: Library, here: Opened, layer: int, neuron: int, maps: bool) -> NeuronView:
    """What one neuron means, by the second-order effects that were asked for last and their codes.

    Parameters
    ----------
    maps : bool
        Whether to ask the model where it fires.

    Raises
    ------
    NotHere
        If there is no such neuron, or nothing is known of its layer.
    """
    of = layer_of(here, layer)
    if neuron not in of.neurons.index:
        raise NotHere(
            f"neuron {neuron}: the layers of this model have neurons 0 to {len(of.neurons) - 1}"
        )
    row = of.neurons.loc[[neuron]].to_dict("records")[0]
    order = of.neurons.sort_values("norm_large", ascending=False, kind="stable").index
    place = order.tolist().index(neuron)
    texts = terms(of.codes, layer, neuron)
    top = of.top[of.top["neuron"] == neuron].sort_values("rank")
    fires, why, waiting = None, "", ""
    if maps:
        try:
            fires = fired(library, here, layer, neuron)
        except NotYet as error:
            waiting = str(error)
        except FacetError as error:
            why = f"Where it fires takes the model's weights: {error}"
    return NeuronView(
        layer, neuron, place + 1, len(order),
        int(order[place - 1]) if place else None,
        int(order[place + 1]) if place + 1 < len(order) else None,
        {str(n): float(v) for n, v in row.items() if n not in ("auc", "auc_random", "left")},
        of.coded is not None, texts, float(row["left"]),
        {str(n): v for n, v in of.truth.loc[neuron].items()} if neuron in of.truth.index else {},
        here.cached(("acted", layer, neuron), lambda: _images(here, top[:IMAGES])),
        here.cached(
            ("lengths", layer, neuron),
            lambda: histogram(here.store, layer, neuron, top["norm"].to_numpy(), READ),
        ),
        of.effects.provenance["images"], is_older(here, of.effects), of.effects.url,
        here.hint("omp"), fires, why, waiting,
    )  # fmt: skip


def _images(here: Opened, top: pd.DataFrame) -> list[Acted]:
    found = []
    for row in top.to_dict("records"):
        (known,) = here.store.images(row["image"], row["image"] + 1).to_pylist()
        names = {name: known[name] for name in ("key", "label", "caption")}
        found.append(
            Acted(**names, **{name: row[name] for name in ("image", "norm", "score", "peak")})
        )
    return found


# -- where it fires, by the model ----------------------------------------------------------


def fired(library: Library, here: Opened, layer: int, neuron: int) -> list[Fired]:
    """Where a neuron fires on the first of its top images, by rank.

    Raises
    ------
    NotYet
        If the model is being loaded.
    FacetError
        If it cannot be.
    """
    of = layer_of(here, layer)
    name = of.effects.name
    return here.cached(
        ("fired", name, neuron), lambda: library.model.ask(here, fires_in, layer, neuron, name)
    )


def fires_in(loaded: Loaded, layer: int, neuron: int, effects: str) -> list[Fired]:
    """In the model's process: see `fired`; ``effects`` is the result's name."""
    from pipeline.neurons.about import NeuronReader
    from storage.results import finished_results

    store = loaded.store
    (result,) = (r for r in finished_results(store.url, "second_order") if r.name == effects)
    found = NeuronReader(store, loaded.model, layer, result, None).images(neuron)
    return [Fired(i.image, i.activations, i.unreadable, i.pixels) for i in found]


def strongest(fires: list[Fired]) -> float:
    """The largest activation on some images, whatever its sign."""
    return max((float(np.abs(f.activations).max()) for f in fires), default=0.0)
