"""What may be chosen of neurons, by name; light, as it is read before any work."""

from __future__ import annotations

from typing import Literal

from pipeline.extraction.plan import parse_layers
from pipeline.images.bad import BadImages, TooManyBadImages
from storage import ledger
from storage.errors import FacetError, Remedy, StoreError
from storage.tables import StoreTables

# What a store keeps of every image.
Keep = Literal["coefficients", "norms", "moments"]
# Whether biases and means are terms of their own, or spread over all components.
Convention = Literal["centred", "equal-share"]
# How codes are found.
Method = Literal["omp", "lasso", "nonneg-omp"]
# Studies of ablations that run the model.
OF_NEURONS = frozenset({"neurons", "effects"})
# Readings that no neuron has an effect on through later attention.
WITHOUT_PATHS = ("attention-pool", "pixels")


def refuse_no_paths(reading: str) -> None:
    """Refuse second-order effects where the store's layers have none.

    Raises
    ------
    FacetError
        With what can be had instead.
    """
    if reading == "attention-pool":
        raise FacetError(
            "neurons have second-order effects through attention layers that come after them, and "
            "the one layer of this model is its attention pool: neurons of the pool's MLP, if it "
            "has one, write directly, and are kept with `components` pool_neurons"
        )
    if reading == "pixels":
        raise FacetError(
            "neurons have second-order effects through attention, and this model has none: what "
            "its blocks write is kept with `components` mlps"
        )


def parse_mlp_layers(text: str, layers: int) -> tuple[int, ...]:
    """MLP layers that a text names: ``all``, ``last:3``, ``8-10``, ``1,3`` or a mixture.

    Parameters
    ----------
    text : str
    layers : int
        Of the whole model; the last MLP has no attention after it and is no choice.

    Raises
    ------
    FacetError
        If a layer does not exist, is the last, or the text cannot be read.
    """
    last = layers - 2
    if last < 0:
        raise FacetError(f"a model of {layers} layer has no neurons with second-order effects")
    try:
        return parse_layers(text, layers - 1)
    except FacetError:
        raise FacetError(
            f"`mlp_layers` {text}: neurons of MLP layers 0 to {last} have second-order effects (no "
            f"attention comes after layer {layers - 1}); write all, last:1, 0-{last} or 0,{last}"
        ) from None


def check_images(store: StoreTables, max_bad: float, top_k: int) -> BadImages:
    """Refuse too few images and too many bad ones; returns the bad ones.

    Parameters
    ----------
    store : Store
    max_bad : float
        Fraction of the store's images that may be bad.
    top_k : int
        Images that have to be there.
    """
    shards = store.done_shards()
    if not shards:
        raise StoreError(f"no shard of {store.url} is finished", Remedy.first("extract", store.url))
    bad = BadImages()
    for facts in ledger.read_facts(store.data, shards):
        bad.add(facts)
    images = sum(stop - start for start, stop in map(store.meta.rows, shards))
    if bad.total() > max_bad * store.meta.images:
        raise TooManyBadImages(
            f"{bad.total()} of {store.meta.images} images are bad, more than `max_bad` "
            f"{max_bad:g} allows:\n{bad.lines()}\nThe ledger of {store.data} names every one."
        )
    if images - bad.total() < top_k:
        raise FacetError(
            f"`top_k` {top_k}: only {images - bad.total()} images are ok in the finished shards "
            f"of {store.url}; use more images or a smaller `top_k`"
        )
    return bad
