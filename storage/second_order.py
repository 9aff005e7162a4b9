"""Which MLP layers' neurons have second-order effects, and which heads those pass; arithmetic.

Neurons of a layer are read by the heads of later layers, so that those of the last have none. Where
the one layer is an attention pool, the layers of its trunk are meant: the pool's heads read the
neurons of all of them.
"""

from __future__ import annotations

from typing import Protocol


class Sizes(Protocol):
    """What is asked of a model, or of a store of it."""

    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def mlp_width(self) -> int: ...
    @property
    def trunk_layers(self) -> int: ...
    @property
    def trunk_mlp_width(self) -> int: ...


class SecondOrder:
    """Of whatever has `Sizes`."""

    @property
    def second_order_layers(self: Sizes) -> int:
        """How many MLP layers there are whose neurons have second-order effects; they count from
        0."""
        return max(0, self.trunk_layers + self.layers - 1) if self.heads else 0

    @property
    def neurons(self: Sizes) -> int:
        """Neurons of such a layer."""
        return self.trunk_mlp_width if self.trunk_layers else self.mlp_width

    def readers(self: Sizes, mlp_layer: int) -> range:
        """The layers whose heads read an MLP layer's neurons."""
        return range(max(0, mlp_layer + 1 - self.trunk_layers), self.layers)

    def paths(self: ReadSizes, mlp_layer: int) -> list[tuple[int, int]]:
        """The (layer, head) pairs that an MLP layer's neurons flow through, in stored order."""
        return [(at, head) for at in self.readers(mlp_layer) for head in range(self.heads)]


class ReadSizes(Sizes, Protocol):
    """The same, with `SecondOrder.readers`."""

    def readers(self, mlp_layer: int) -> range: ...
