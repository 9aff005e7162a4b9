"""How heads and neurons are written, in texts, tables and pictures alike.

Commands take the short form ``3.0``, a layer and a head; see ``choices.parse_heads``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def head_name(layer: int, head: int) -> str:
    """``layer 3, head 0``."""
    return f"layer {layer}, head {head}"


def heads_name(heads: Sequence[tuple[int, int]]) -> str:
    """``layer 2, head 1; layer 3, heads 0 and 2``."""
    return _listed(heads, "layer {}, head")


def neuron_name(layer: int, neuron: int) -> str:
    """``MLP layer 2, neuron 17``."""
    return f"MLP layer {layer}, neuron {neuron}"


def neurons_name(neurons: Sequence[tuple[int, int]]) -> str:
    """``MLP layer 2, neurons 3, 5 and 17``."""
    return _listed(neurons, "MLP layer {}, neuron")


def _listed(places: Sequence[tuple[int, int]], name: str) -> str:
    parts = []
    for layer, of_layer in groupby(sorted(places), key=lambda at: at[0]):
        *first, last = [str(number) for _, number in of_layer]
        listed = f"s {', '.join(first)} and {last}" if first else f" {last}"
        parts.append(name.format(layer) + listed)
    return "; ".join(parts)
