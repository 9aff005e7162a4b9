"""Which neurons fire on a picture, and the concepts that they add up to, layer by layer.

What firing is, and what concepts are, say ``pipeline.concepts``: here is what of it a page shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.concepts.codes import Coded, Codes, read_codes
from pipeline.concepts.long import Long, long_effects
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.subject import Subject, pixels_of
from storage import neurons, urls
from storage.results import Result, finished_results

if TYPE_CHECKING:
    from pipeline.concepts.by_neurons import LayerEffects
    from pipeline.explorer.model import Loaded
    from pipeline.neurons.answers import CodeText

JOB = "second_order"
# Neurons and concepts that are shown.
SHOWN, CONCEPTS = 12, 12


@dataclass(frozen=True)
class Firing:
    """A neuron that fires.

    Attributes
    ----------
    neuron : int
    norm : float
        Length of its mean-removed effect on the embedding, over ‖embedding‖.
    usual : float
        Its mean length over all images.
    score : float or None
        The effect's projection on the neuron's direction; None where the model was not asked.
    texts : tuple of CodeText
        The neuron's code, by rank.
    """

    neuron: int
    norm: float
    usual: float
    score: float | None
    texts: tuple[CodeText, ...]


@dataclass(frozen=True)
class Concept:
    """A text that neurons that fire stand for, or against; and how many of them."""

    text: str
    score: float
    neurons: int


@dataclass(frozen=True)
class FiringLayer:
    """The neurons of an MLP layer that fire on a picture.

    Attributes
    ----------
    layer : int
    firing, of : int
        How many fire, of how many.
    long : str
        When a neuron counts as firing, in words.
    neurons : tuple of Firing
        The longest effects first.
    concepts : tuple of Concept
        Those of the largest size first; empty where projections are not known, or no codes are.
    signed : bool
        Whether projections are known.
    """

    layer: int
    firing: int
    of: int
    long: str
    neurons: tuple[Firing, ...]
    concepts: tuple[Concept, ...]
    signed: bool


@dataclass(frozen=True, eq=False)
class Effects:
    """The mean-removed effects of a layer's neurons on a picture: lengths, and projections."""

    norms_n: NDArray[np.float64]
    scores_n: NDArray[np.float64] | None


def effects_by_layer(here: Opened) -> dict[int, Result]:
    """The second-order effects of each MLP layer that were asked for last."""
    found: dict[int, Result] = {}
    for result in here.results(JOB):
        for layer in result.provenance["mlp_layers"]:
            found.setdefault(layer, result)
    return dict(sorted(found.items(), reverse=True))


def firing(library: Library, here: Opened, subject: Subject, signed: bool) -> list[FiringLayer]:
    """Which neurons fire on a picture, of every layer whose effects are known.

    Parameters
    ----------
    library : Library
    here : Opened
    subject : Subject
    signed : bool
        Whether projections are wanted, which the model is asked for. Of a picture that the store
        does not hold, or no lengths of, they are told in any case.

    Raises
    ------
    NotYet
        If the model is being loaded.
    """
    results = effects_by_layer(here)
    kept = effects(library, here, subject, results, signed)
    return [_of_layer(here, layer, result, kept[layer]) for layer, result in results.items()]


def effects(
    library: Library, here: Opened, subject: Subject, results: Mapping[int, Result], signed: bool
) -> dict[int, Effects]:
    """Effects of layers on a picture: lengths that the store keeps, or one pass for all others.

    Parameters
    ----------
    results : mapping of int to Result
        The second-order effects whose directions are meant, by MLP layer.
    signed : bool
        See `firing`.
    """
    found = {}
    if not signed and subject.index is not None:
        of_image = {layer: stored_effects(here, layer, subject.index) for layer in results}
        found = {layer: kept for layer, kept in of_image.items() if kept is not None}
    lacking = tuple((layer, of.name) for layer, of in results.items() if layer not in found)
    if lacking:
        picture = subject.index if subject.data is None else subject.data
        found |= here.cached(
            ("effects", lacking, subject.key),
            lambda: library.model.ask(here, effects_of, lacking, picture),
        )
    return found


def stored_effects(here: Opened, layer: int, image: int) -> Effects | None:
    """Lengths that the store keeps of an image; None where it keeps none."""
    done = here.cached(("norms done", layer), lambda: neurons.done(here.store.url, layer, "norms"))
    if image // here.meta.shard_size not in done:
        return None
    group: Any = urls.open_group(neurons.group_url(here.store.url, layer), mode="r")
    return Effects(np.asarray(group["norms"][image], np.float64), None)


def long_of(here: Opened, layer: int, result: Result) -> Long:
    """When neurons of a layer fire; read once."""
    return here.cached(
        ("long effects", result.url, layer), lambda: long_effects(here.store, result, layer)
    )


def _of_layer(here: Opened, layer: int, result: Result, kept: Effects) -> FiringLayer:
    from pipeline.neurons.answers import codes_of, terms

    long = long_of(here, layer, result)
    fires_n = kept.norms_n > long.lengths_n
    order = [int(n) for n in np.argsort(-kept.norms_n, kind="stable") if fires_n[n]]
    usual_n = here.cached(("usual effects", result.url, layer), lambda: _usual(result, layer))
    coded = here.cached(("codes", result.url, layer), lambda: codes_of(here.store, result, layer))
    rows, scores_n = None, kept.scores_n
    concepts: tuple[Concept, ...] = ()
    if coded is not None:
        of = Coded(layer, coded, result)
        rows = here.cached(("codes", coded.url, layer), lambda: _rows(coded, "codes", layer))
        if scores_n is not None:
            codes = here.cached(("codes", coded.url, (layer,)), lambda: read_codes([of]))
            concepts = concepts_of(codes, {layer: np.where(fires_n, scores_n, 0.0)})
    shown = tuple(
        Firing(
            neuron,
            float(kept.norms_n[neuron]),
            float(usual_n[neuron]),
            None if scores_n is None else float(scores_n[neuron]),
            () if rows is None else terms(rows, layer, neuron),
        )
        for neuron in order[:SHOWN]
    )
    return FiringLayer(
        layer, len(order), len(fires_n), long.words, shown, concepts, scores_n is not None
    )


def _usual(result: Result, layer: int) -> NDArray[np.float64]:
    """Mean length of each neuron's effects, (N,)."""
    return _rows(result, "neurons", layer).sort_values("neuron")["norm_mean"].to_numpy()


def _rows(result: Result, name: str, layer: int) -> Any:
    table = result.table(name).to_pandas()
    return table[table["layer"] == layer]


def concepts_of(
    codes: Codes, weights: Mapping[int, NDArray[np.float64]], most: int = CONCEPTS
) -> tuple[Concept, ...]:
    """Texts by what neurons that fire say of them, the largest size first.

    Parameters
    ----------
    codes : Codes
    weights : mapping of int to (N,)
        By MLP layer, 0 for a neuron that does not fire.
    most : int
    """
    scores_m = codes.add({layer: weights_n[None] for layer, weights_n in weights.items()})[0]
    order = [int(m) for m in np.argsort(-np.abs(scores_m), kind="stable") if scores_m[m]]
    return tuple(
        Concept(text, float(scores_m[m]), len(codes.said(weights, text)))
        for m in order[:most]
        for text in (codes.texts[m],)
    )


# -- in the model's process ----------------------------------------------------------------


def effects_of(
    loaded: Loaded, layers: Sequence[tuple[int, str]], picture: int | bytes
) -> dict[int, Effects]:
    """Effects of layers' neurons on a picture, from one pass of the model.

    Parameters
    ----------
    loaded : Loaded
    layers : sequence of (int, str)
        MLP layers, each with the name of the second-order effects whose directions are meant.
    picture : int or bytes
    """
    import torch

    from pipeline.neurons.forward import NeuronPass
    from pipeline.neurons.rows import OkImages, passed_rows

    run = NeuronPass(loaded.model, [layer for layer, _ in layers], ("coefficients", "peaks"))
    images_b = torch.tensor([picture if isinstance(picture, int) else 0])
    with torch.inference_mode():
        rows = {
            of.mlp_layer: of
            for of in passed_rows(run, OkImages(loaded.model, images_b, pixels_of(loaded, picture)))
        }
        known = {layer: layer_effects_of(loaded, layer, name) for layer, name in layers}
        return {
            layer: Effects(of.lengths(rows[layer])[0], of.projections(rows[layer])[0])
            for layer, of in known.items()
        }


@lru_cache(maxsize=8)
def layer_effects_of(loaded: Loaded, layer: int, name: str) -> LayerEffects:
    """What lengths and projections of a layer take; made once."""
    from pipeline.concepts.by_neurons import effects_of_layer

    store = loaded.store
    (result,) = (of for of in finished_results(store.url, JOB) if of.name == name)
    return effects_of_layer(store, loaded.model, layer, result)
