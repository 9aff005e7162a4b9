"""Directions of neurons as a result keeps them; read without a library for models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.errors import FacetError
from storage.results import Result

if TYPE_CHECKING:
    from .codes import Neuron


@dataclass(frozen=True, eq=False)
class FoundDirections:
    """Directions of second-order effects, as a run found them.

    Attributes
    ----------
    by_layer : dict of int to (neuron, embed) float32
        Unit vectors; zero for a neuron without effect.
    """

    by_layer: dict[int, NDArray[np.float32]]

    @property
    def alive(self) -> list[Neuron]:
        """Neurons that have an effect: those that are coded."""
        return [(i, int(n)) for i, r in self.by_layer.items() for n in np.flatnonzero(r.any(1))]

    @property
    def dead(self) -> list[Neuron]:
        """Neurons without any effect."""
        return [(i, int(n)) for i, r in self.by_layer.items() for n in np.flatnonzero(~r.any(1))]


def read_directions(effects: Result, mlp_layers: Sequence[int]) -> FoundDirections:
    """Directions of every neuron of some layers.

    Raises
    ------
    FacetError
        If any holds NaN, or no neuron has an effect.
    """
    data = effects.arrays("components")["direction"]
    found = FoundDirections({i: data.sel(layer=i).values.astype(np.float32) for i in mlp_layers})
    for layer, rows in found.by_layer.items():
        if bad := int((~np.isfinite(rows).all(1)).sum()):
            raise FacetError(
                f"the directions of {bad} neurons of MLP layer {layer} in {effects.url} hold NaN "
                "or infinite values: find their second-order effects again"
            )
    if not found.alive:
        layers = ",".join(map(str, mlp_layers))
        raise FacetError(
            f"none of the {len(found.dead)} neurons of MLP layers {layers} has any effect"
        )
    return found
