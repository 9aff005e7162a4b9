"""From directions that were found to codes, to what they are worth, and to whether they are true.

Parts of one study, which a job calls in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.heads import roles, studies
from pipeline.models import VisionModel
from pipeline.telling import SILENT, Teller
from pipeline.texts.classes import Classes
from pipeline.texts.encoding import Encoded
from storage.errors import FacetError
from storage.results import Result
from storage.store import Store

from . import code_accuracy, truth
from .choices import Method
from .codes import Neuron, NeuronCodes, code_neurons, sizes_up_to
from .found_directions import FoundDirections
from .maps import SecondOrderMaps, second_order_maps
from .omp import build_dictionary
from .rows import pack


@dataclass(frozen=True, eq=False)
class FoundCodes:
    """Codes of neurons, as a run found them.

    Attributes
    ----------
    result : Result
        Where they are kept.
    codes, fits : DataFrame
    dead : list of (layer, neuron)
        Neurons without any effect, which were not coded.
    accuracy : DataFrame or None
    truths : dict of int to NeuronTruth
        By layer, where the images' attributes are known and the store keeps neurons.
    """

    result: Result
    codes: pd.DataFrame
    fits: pd.DataFrame
    dead: list[Neuron]
    accuracy: pd.DataFrame | None
    truths: dict[int, truth.NeuronTruth]


def read_codes(result: Result) -> FoundCodes:
    """What a finished run found."""
    known = result.provenance
    accuracy = None
    if result.config["classes"] is not None:
        accuracy = result.table("accuracy").to_pandas()
    truths = {}
    if known["measured"]:
        table = result.table("truth").to_pandas()
        for layer, facts in known["measured"].items():
            rows = table[table["layer"] == int(layer)].reset_index(drop=True)
            truths[int(layer)] = truth.NeuronTruth.of(rows, facts)
    codes, fits = (result.table(name).to_pandas() for name in ("codes", "fits"))
    dead = [(int(layer), int(neuron)) for layer, neuron in known["dead"]]
    return FoundCodes(result, codes, fits, dead, accuracy, truths)


def refuse_texts(encoded: Encoded) -> None:
    """Refuse a text without a direction, before any worker is asked."""
    try:
        build_dictionary(torch.from_numpy(encoded.embeddings))
    except ValueError as error:
        raise FacetError(f"the embeddings in {encoded.result.url}: {error}") from error


def code(
    directions: FoundDirections,
    texts_me: NDArray[np.float32],
    method: Method,
    terms: int,
    *,
    written: bool,
    teller: Teller = SILENT,
) -> NeuronCodes:
    """Codes of the neurons that have an effect, in their order; see ``code_neurons``."""
    alive = directions.alive
    targets_ne = np.stack([directions.by_layer[layer][neuron] for layer, neuron in alive])
    with teller.bar("neurons", len(alive)) as move:
        return code_neurons(texts_me, targets_ne, method, sizes_up_to(terms), written, move)


def accuracies(
    store: Store,
    model: VisionModel,
    classes: Classes,
    readout_ce: NDArray[np.float32],
    label_column: str,
    directions: FoundDirections,
    codes: NeuronCodes,
    teller: Teller = SILENT,
) -> pd.DataFrame:
    """Accuracy with every size of code in place of the directions, layer by layer.

    Parameters
    ----------
    store : Store
    model : VisionModel
        The store's own.
    classes : Classes
    readout_ce : (C, E) float32
        Unit embeddings of the classes.
    label_column : str
    directions : FoundDirections
    codes : NeuronCodes
        Of the neurons that have an effect, with what they write.
    teller : Teller
    """
    shards = sorted(store.done_shards())
    tables: list[pd.DataFrame] = []
    alive = directions.alive
    for layer, directions_ne in directions.by_layer.items():
        at = np.array([i for i, (of, _) in enumerate(alive) if of == layer], int)
        neurons = [n for of, n in alive if of == layer]
        written = np.zeros((len(codes.sizes), *directions_ne.shape), np.float32)
        if codes.written is not None:
            written[:, neurons] = codes.written[:, at]
        plan = code_accuracy.CodeStudy(
            url=store.url,
            layer=layer,
            label_column=label_column,
            classes=classes,
            readout_ce=readout_ce,
            maps=pack(cpu_maps(model, layer)),
            means_pn=code_accuracy.layer_means(store, layer),
            directions_ne=directions_ne,
            sizes=codes.sizes,
            written=written,
        )
        with teller.bar(f"accuracy of layer {layer}: shards", len(shards)) as move:
            counted = studies.run(plan, shards, move)
        table = studies.study_table(counted, classes, plan.steps)
        # The model as it is comes once, with the first layer.
        tables.append(table if not tables else table[table["study"] != "none"])
    return pd.concat(tables, ignore_index=True)


def known_layers(store: Store, mlp_layers: Sequence[int]) -> list[int]:
    """Layers whose neurons can be held against the truth."""
    if not roles.known_attributes(store):
        return []
    return [layer for layer in mlp_layers if truth.measure(store, layer)]


def truths(
    store: Store,
    model: VisionModel,
    directions: FoundDirections,
    codes: pd.DataFrame,
    pool: Sequence[str],
    teller: Teller = SILENT,
) -> dict[int, truth.NeuronTruth]:
    """Neurons against what their texts say, by layer, where the truth is known.

    Parameters
    ----------
    codes : DataFrame
        See ``code_table``.
    pool : sequence of str
        All texts that they were picked from.
    """
    found = {}
    for layer in known_layers(store, list(directions.by_layer)):
        shards = len(truth.read_shards(store, layer))
        with teller.bar(f"known truth of layer {layer}: shards", shards) as move:
            fired = truth.firing(
                store, layer, cpu_maps(model, layer), directions.by_layer[layer], move
            )
        found[layer] = truth.truth(layer, codes[codes["layer"] == layer], pool, fired)
    return found


def cpu_maps(model: VisionModel, layer: int) -> SecondOrderMaps:
    """A layer's maps where the tasks that read the store want them."""
    return second_order_maps(replace(model, device=torch.device("cpu")), layer)
