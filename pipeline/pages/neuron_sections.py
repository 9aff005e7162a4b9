"""The page's sections on neurons: of each layer its effects, its codes, and some neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.models import ModelError, VisionModel
from pipeline.neurons.about import NeuronReader
from pipeline.neurons.answers import Picked, codes_of, picked, terms
from pipeline.neurons.choices import beside_pool
from pipeline.neurons.coding import FoundCodes, read_codes
from pipeline.texts.encoding import store_model
from storage.errors import FacetError
from storage.results import Result
from storage.store import Store

from . import extraction, neurons
from .html import Section
from .reader import READ, Reader, by_part, classes_of

# Neurons that are shown in pictures, and top images of each where the weights are not at hand.
NEURONS, TOP_IMAGES = 8, 8


def of_neurons(read: Reader) -> list[Section]:
    """Of every layer whose neurons were looked at, the result that was asked for last."""
    found = by_part(read.results("second_order"), lambda result: result.provenance["mlp_layers"])
    layers = sorted(found, reverse=True)
    shown = [layers[i % len(layers)] for i in range(NEURONS)] if layers else []
    model, why = _model(read) if layers else (None, "")
    sections = []
    for layer in layers:
        sections += _of_layer(read, layer, found[layer], shown.count(layer), model, why)
    return sections


def _model(read: Reader) -> tuple[VisionModel | None, str]:
    """The store's model, if its weights are at hand, or why not."""
    try:
        return store_model(read.store, read.pretrained), ""
    except (FacetError, ModelError) as error:
        return None, f"Where neurons fire in an image takes the model's weights: {error}."


def _of_layer(
    read: Reader, layer: int, effects: Result, count: int, model: VisionModel | None, why: str
) -> list[Section]:
    """Sections of one layer's neurons, of which ``count`` are shown."""
    table = effects.table("neurons").to_pandas()
    table = table[table["layer"] == layer]
    if not (table["norm_max"] > 0).any():
        return []
    coded = codes_of(read.store, effects, layer)
    found = None if coded is None else read_codes(coded)
    chosen = _picked(layer, table, effects, found, count)
    shown = [one.neuron for one in chosen]
    warned, made = [*read.older(effects)], read.made(effects)
    if beside := beside_pool(read.store.meta):
        warned.append(f"Not in these effects: {beside}.")
    images = effects.provenance["images"]
    sections = [neurons.effects_section(layer, table, images, shown, warned, made)]
    if found is not None:
        old, codes_made = read.older(found.result), read.made(found.result)
        sections.append(neurons.codes_section(layer, found, shown, old, codes_made))
        if found.accuracy is not None:
            classes = classes_of(found.result, found.accuracy)
            sections.append(
                neurons.accuracy_section(layer, found.accuracy, classes, old, codes_made)
            )
    if not chosen:
        return sections
    reader = None if model is None else NeuronReader(read.store, model, layer, effects, coded, READ)
    top = effects.table("top_images").to_pandas()
    top = top[top["layer"] == layer]
    for one in chosen:
        sections.append(
            neurons.neuron_section(
                neurons.Shown(
                    layer,
                    one,
                    table[table["neuron"] == one.neuron].iloc[0].to_dict(),
                    () if found is None else terms(found.codes, layer, one.neuron),
                    _truth(found, layer, one.neuron),
                    None if reader is None else reader.about(one.neuron),
                    [] if reader is not None else _top_images(read.store, top, one.neuron),
                ),
                why,
                made,
            )
        )
    return sections


def _picked(
    layer: int, table: pd.DataFrame, effects: Result, found: FoundCodes | None, count: int
) -> list[Picked]:
    """Neurons to be shown: by their AUC where the truth is known, else by how their codes fit."""
    directions = effects.arrays("components")["direction"].sel(layer=layer).values
    codes = pd.DataFrame({"neuron": [], "rank": [], "text": [], "coefficient": []})
    quality, names = pd.Series(dtype=float), ("", "")
    if found is not None:
        codes = found.codes[found.codes["layer"] == layer]
        fits = found.fits[found.fits["layer"] == layer]
        quality = -fits[fits["most"] == fits["most"].max()].set_index("neuron")["residual"]
        names = ("the one whose code fits best", "the one whose code fits worst")
        if layer in found.truths and len(truth := found.truths[layer].table):
            quality = truth.set_index("neuron")["auc"]
            names = ("the one whose text is truest", "the one whose text is least true")
    return picked(table, directions, codes, quality, names, count)


def _truth(found: FoundCodes | None, layer: int, neuron: int) -> Mapping[str, Any] | None:
    if found is None or layer not in found.truths:
        return None
    rows = found.truths[layer].table
    rows = rows[rows["neuron"] == neuron]
    return None if rows.empty else {str(k): v for k, v in rows.iloc[0].to_dict().items()}


def _top_images(store: Store, top: pd.DataFrame, neuron: int) -> list[tuple[str, str]]:
    rows = top[top["neuron"] == neuron].sort_values("rank")[:TOP_IMAGES]
    return [
        extraction.picture(store, row["image"], f"image {row['image']}: {row['score']:+.3f}")
        for row in rows.to_dict("records")
    ]
