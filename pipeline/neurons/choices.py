"""What may be chosen of neurons, by name; light, as it is read before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.extraction.plan import parse_layers
from pipeline.images.bad import BadImages, TooManyBadImages
from storage import ledger
from storage.errors import FacetError, Remedy, StoreError
from storage.metadata import Metadata
from storage.tables import StoreTables

if TYPE_CHECKING:
    from pipeline.models.spec import Architecture

# What a store keeps of every image.
Keep = Literal["coefficients", "norms", "moments"]
# Whether biases and means are terms of their own, or spread over all components.
Convention = Literal["centred", "equal-share"]
# How codes are found.
Method = Literal["omp", "lasso", "nonneg-omp"]
# Studies of ablations that run the model.
OF_NEURONS = frozenset({"neurons", "effects"})


def refuse_no_paths(of: Metadata | Architecture) -> None:
    """Refuse second-order effects where no neuron has any.

    Raises
    ------
    FacetError
        With what can be had instead.
    """
    if of.second_order_layers:
        return
    if not of.heads:
        raise FacetError(
            "neurons have second-order effects through attention, and this model has none: what "
            "its blocks write is kept with `components` mlps"
        )
    if of.reading != "attention-pool":
        raise FacetError(f"a model of {of.layers} layer has no neurons with second-order effects")
    if isinstance(of, Metadata) and not of.knows_trunk:
        raise FacetError(
            f"this store was made with schema version {of.schema_version}, which does not say how "
            "many layers come before an attention pool: to have their neurons' second-order "
            "effects, extract its images anew, to another place"
        )
    raise FacetError(
        "neurons have second-order effects through attention layers that come after them, and what "
        "comes before this model's attention pool are convolutions: its channels are kept with "
        "`components` channels"
    )


def parse_mlp_layers(text: str, of: Metadata | Architecture) -> tuple[int, ...]:
    """MLP layers that a text names: ``all``, ``last:3``, ``8-10``, ``1,3`` or a mixture.

    Parameters
    ----------
    text : str
    of : Metadata or Architecture
        Of the store or the model.

    Raises
    ------
    FacetError
        If no layer's neurons have second-order effects, a layer does not exist or is the last
        where no pool comes after it, or the text cannot be read.
    """
    refuse_no_paths(of)
    last = of.second_order_layers - 1
    try:
        return parse_layers(text, last + 1)
    except FacetError:
        raise FacetError(
            f"`mlp_layers` {text}: neurons of MLP layers 0 to {last} have second-order effects "
            f"({why_these(of)}); write all, last:1, 0-{last} or 0,{last}"
        ) from None


def why_these(of: Metadata | Architecture) -> str:
    """Why no other layers' neurons have second-order effects."""
    if of.trunk_layers:
        return "those before the attention pool"
    return f"no attention comes after layer {of.layers - 1}"


def beside_pool(of: Metadata | Architecture) -> str:
    """What second-order effects through an attention pool do not hold, in words; else empty."""
    if not (of.trunk_layers and of.mlp_width):
        return ""
    return "what neurons do through the pool's own MLP, which is not linear"


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
