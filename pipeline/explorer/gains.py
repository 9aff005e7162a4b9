"""Gains of a model's parts as addresses have them: ``1.3:0 mlp2:0.5 start:0 bias1:0``.

A head is layer.head, ``mlp2`` the MLP of layer 2, ``start`` what the embedding starts from, and
``bias1`` the output bias of layer 1's attention. Parts that are not named have the gain 1.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.edits import Edit
from pipeline.repair.gains import Components
from storage.errors import FacetError

# Gains that are typed may be so large, either way.
LARGEST = 100.0
EXAMPLE = "1.3:0 mlp2:0.5 start:0 bias1:0"
_PART = re.compile(r"(?:(\d{1,6})\.(\d{1,6})|mlp(\d{1,6})|(start)|bias(\d{1,6})):([-+.\deE]{1,32})")


def part_names(components: Components) -> list[str]:
    """Names of all parts, S of them, in the order of ``Components``."""
    layers = range(components.layers)
    heads = [f"{layer}.{head}" for layer in layers for head in range(components.heads)]
    return [*heads, "start", *(f"mlp{i}" for i in layers), *(f"bias{i}" for i in layers)]


def read_gains(asked: str, components: Components) -> NDArray[np.float64]:
    """Gains of all parts, (S,).

    Raises
    ------
    FacetError
        If they cannot be read, or the model has no such part.
    """
    places = {name: i for i, name in enumerate(part_names(components))}
    gains_s = np.ones(components.count)
    for word in re.split(r"[\s,;]+", asked.strip()):
        if not word:
            continue
        if not _PART.fullmatch(word):
            raise FacetError(f"`gains` {word[:40]!r} cannot be read: write them as {EXAMPLE}")
        name, _, said = word.partition(":")
        if name not in places:
            raise FacetError(
                f"`gains` {word!r}: the model has layers 0-{components.layers - 1} of heads "
                f"0-{components.heads - 1}"
            )
        try:
            gain = float(said)
        except ValueError:
            gain = math.nan
        if not abs(gain) <= LARGEST:
            raise FacetError(
                f"`gains` {word!r}: a gain is a number from {-LARGEST:g} to {LARGEST:g}"
            )
        gains_s[places[name]] = gain
    return gains_s


def write_gains(gains_s: NDArray[np.float64], components: Components) -> str:
    """Gains as addresses have them, to their last digit."""
    names = part_names(components)
    return " ".join(f"{names[i]}:{_short(gains_s[i])}" for i in np.flatnonzero(gains_s != 1))


def gains_of(edit: Edit) -> NDArray[np.float64]:
    """The gains of an edit, (S,)."""
    return np.concatenate([edit.heads_lh.ravel(), edit.blocks_s, edit.attention_bias_l])


def _short(gain: float) -> str:
    return repr(int(gain)) if gain == int(gain) else repr(float(gain))
