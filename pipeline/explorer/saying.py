"""Concepts of a picture, in the model's process: what ``concepts`` asks there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline.concepts.answers import Concepts
from pipeline.concepts.choices import EMBEDDING_TERMS, HEAD_TERMS, OF_NEURONS, Method
from pipeline.concepts.codes import Coded, read_codes
from pipeline.concepts.pools import pool_of_codes
from pipeline.explorer.firing import layer_effects_of
from pipeline.explorer.subject import pixels_of
from pipeline.extraction.plan import parse_layers
from pipeline.heads.parts import StoredParts
from storage.errors import FacetError
from storage.reductions import Reductions, find_reductions
from storage.results import finished_results

if TYPE_CHECKING:
    from pipeline.concepts.by_codes import ByHeads, Dictionary, Rest
    from pipeline.concepts.by_neurons import ByNeurons
    from pipeline.concepts.picture import By
    from pipeline.explorer.model import Loaded

# Concepts of each method, for and against.
TOP = 8
# MLP layers, with the names of their codes and of the effects that these are of.
Layers = tuple[tuple[int, str, str], ...]


def say(
    loaded: Loaded,
    methods: Sequence[Method],
    layers: Layers,
    picture: int | bytes,
    name: str,
    parts: StoredParts | None,
) -> Concepts:
    """Concepts of a picture, as the job finds them.

    Parameters
    ----------
    loaded : Loaded
    methods : sequence of Method
    layers : Layers
    picture : int or bytes
    name : str
        What it is called.
    parts : StoredParts or None
        What heads and MLPs wrote, where a method asks that.
    """
    from pipeline.concepts import found
    from pipeline.concepts.picture import concepts_of
    from pipeline.concepts.wrote import Wrote, seen

    wrote = Wrote({})
    if OF_NEURONS & set(methods):
        pixels = pixels_of(loaded, picture)
        wrote = seen(loaded.model, pixels, [layer for layer, *_ in layers], parts=False)
    wrote, told = replace(wrote, parts=parts), []
    for method in methods:
        by, rest = _by(loaded, method, layers)
        told.append(concepts_of(method, by, wrote, TOP, rest, loaded.store.meta.grid))
    image = picture if isinstance(picture, int) else None
    of_picture = [found.OfPicture(name, image, told)]
    return found.concepts(found.tables(of_picture), found.arrays(of_picture), {})


def _by(loaded: Loaded, method: Method, layers: Layers) -> tuple[By, Rest | None]:
    from pipeline.concepts.by_codes import by_embedding

    if method in OF_NEURONS:
        return replace(_by_neurons(loaded, layers), published=method == "published"), None
    if method == "heads":
        return _by_heads(loaded, layers)
    return by_embedding(_dictionary(loaded, layers), _reductions(loaded), EMBEDDING_TERMS), None


@lru_cache(maxsize=4)
def _by_neurons(loaded: Loaded, layers: Layers) -> ByNeurons:
    from pipeline.concepts.by_neurons import ByNeurons, long_of

    coded = _coded(loaded, layers)
    effects = {layer: layer_effects_of(loaded, layer, name) for layer, _, name in layers}
    return ByNeurons(read_codes(coded), long_of(loaded.store, coded), effects)


@lru_cache(maxsize=4)
def _by_heads(loaded: Loaded, layers: Layers) -> tuple[ByHeads, Rest]:
    from pipeline.concepts.by_codes import by_heads, rest_of

    meta, reductions = loaded.store.meta, _reductions(loaded)
    last = parse_layers(f"last:{min(4, meta.layers)}", meta.layers)
    by = by_heads(loaded.store, _dictionary(loaded, layers), reductions, last, HEAD_TERMS)
    return by, rest_of(loaded.store, reductions)


@lru_cache(maxsize=4)
def _dictionary(loaded: Loaded, layers: Layers) -> Dictionary:
    """The texts of the codes, those of the last layer."""
    from pipeline.concepts.by_codes import Dictionary

    for of in reversed(_coded(loaded, layers)):
        if (pool := pool_of_codes(loaded.store, of.codes)) is not None:
            return Dictionary.of(pool.texts, pool.embeddings)
    raise FacetError("the embeddings of the texts that neurons were coded with are not kept")


def _reductions(loaded: Loaded) -> Reductions:
    found = find_reductions(loaded.store.url, loaded.store.meta, None)
    if found is None:
        raise FacetError("means over all images are not known")
    return found


def _coded(loaded: Loaded, layers: Layers) -> list[Coded]:
    url = loaded.store.url
    codes = {of.name: of for of in finished_results(url, "omp")}
    effects = {of.name: of for of in finished_results(url, "second_order")}
    return [Coded(layer, codes[code], effects[effect]) for layer, code, effect in layers]
