"""What a batch takes where gradients or relevance are asked for, as arithmetic: no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.models import Architecture
    from storage.metadata import Metadata

# What was given back lies in pieces between what is held, so that a process takes more.
_PIECES = 1.2


def first_derived(methods: Iterable[str], layers: int) -> int:
    """The first layer whose patterns the class's score is derived by; `layers` if it is none."""
    firsts = {"gradcam": layers - 1, "gradient-attention": 0, "legrad": layers}
    return min((firsts[method] for method in methods), default=layers)


def gradient_bytes(
    sizes: Architecture | Metadata, batch_size: int, methods: Iterable[str], itemsize: int = 4
) -> int:
    """Peak bytes of a batch in `GradientMaps`, without the model and its weights.

    Parameters
    ----------
    sizes : Architecture or Metadata
    batch_size : int
        Pictures in one pass.
    methods : iterable of str
        Of ``gradcam``, ``gradient-attention``, ``legrad``.
    itemsize : int
        Bytes of a number in matrix products: 4, or 2 in half precision; the stream has 4.
    """
    tokens = batch_size * sizes.tokens
    patterns = itemsize * tokens * sizes.heads * sizes.tokens
    hidden = itemsize * tokens * sizes.mlp_width
    # Kept of a layer: the stream as both norms read it; queries, keys and values; neurons before
    # the activation, which QuickGELU keeps a second number of.
    kept = tokens * sizes.width * (2 * 4 + 3 * itemsize)
    kept += hidden * (2 if sizes.activation == "quickgelu" else 1)
    # At work in a layer: its patterns and those of the layer before; more patterns in the softmax
    # or neurons behind them; both layers' queries, keys and values; streams.
    at_work = 2 * patterns + max(2 * patterns, 2 * hidden)
    at_work += tokens * sizes.width * (8 * itemsize + 3 * 4)
    # The last layer has the class token's queries alone.
    derived = sizes.layers - 1 - min(first_derived(methods, sizes.layers), sizes.layers - 1)
    # Activations are given up as gradients of patterns come.
    held = derived * (patterns + max(kept, patterns)) + at_work
    return int(_PIECES * held)


def relevance_bytes(sizes: Architecture | Metadata, batch_size: int, methods: Iterable[str]) -> int:
    """Peak bytes of `RelevanceMaps`: the tower's copy in float64, and a batch.

    Parameters
    ----------
    sizes : Architecture or Metadata
    batch_size : int
        Pictures in one pass.
    methods : iterable of str
        Of ``lrp``, ``partial-lrp``, ``transformer-attribution``.
    """
    width, neurons, patterns = sizes.width, sizes.mlp_width, sizes.heads * sizes.tokens
    # Numbers a token of a layer: the stream before attention and MLP, what both write, queries,
    # keys, values and what heads gathered of them; neurons; patterns.
    kept = 8 * width + neurons + patterns
    if "transformer-attribution" in methods:
        # Of the gradients' graph: queries, keys and values head by head, neurons within the
        # activation, which QuickGELU keeps a second number of; and the gradients.
        kept += 3 * width + neurons * (2 if sizes.activation == "quickgelu" else 1) + patterns
    # Partial LRP ends in the last layer.
    layers = min(2, sizes.layers) if set(methods) == {"partial-lrp"} else sizes.layers
    at_work = 8 * width + max(6 * neurons, 5 * patterns)
    batch = batch_size * sizes.tokens * (layers * kept + at_work)
    block = 4 * width**2 + 2 * width * neurons
    return 8 * (int(_PIECES * batch) + (sizes.layers + 1) * block)
