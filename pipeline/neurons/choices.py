"""What may be chosen of neurons, by name; light, as it is read before any work."""

from __future__ import annotations

from typing import Literal

from pipeline.extraction.plan import parse_layers
from storage.errors import FacetError

# What a store keeps of every image.
Keep = Literal["coefficients", "norms", "moments"]
# How codes are found.
Method = Literal["omp", "lasso", "nonneg-omp"]
# Studies of ablations that run the model.
OF_NEURONS = frozenset({"neurons", "effects"})


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
