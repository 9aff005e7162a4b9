"""What of the methods is run, with all that they need; and what makes their maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.choices import Head
from pipeline.models import VisionModel
from pipeline.neurons.maps import Convention

from .asked import MapMaker
from .choices import Method, Protocol
from .gradients import GRADIENT_METHODS, GradientMaps
from .plain import PLAIN, PlainMaps
from .relevance import RELEVANCE, RelevanceMaps


@dataclass(frozen=True, eq=False)
class Bench:
    """Methods, each with what it needs.

    Attributes
    ----------
    methods : tuple of Method
    protocols : tuple of Protocol
    classes : tuple of str
        Their names.
    texts_ce : (class, embed) float32
        Their unit embeddings.
    tokens : dict of str to sequence of (layer, head)
        Of tokens: the heads that are summed, by what a row of the table is called.
    convention : {"centred", "equal-share"}
        Of tokens.
    directions : dict of int to (neuron, embed) float32
        Of neurons, by MLP layer.
    steps : int
        Of deletion and insertion; 0: none.
    """

    methods: tuple[Method, ...]
    protocols: tuple[Protocol, ...]
    classes: tuple[str, ...]
    texts_ce: NDArray[np.float32]
    tokens: Mapping[str, Sequence[Head]]
    convention: Convention
    directions: Mapping[int, NDArray[np.float32]]
    steps: int = 0

    @property
    def rows(self) -> list[str]:
        """Rows of the table of methods, in the order in which they were asked for."""
        named: dict[Method, list[str]] = {"tokens": [f"tokens {name}" for name in self.tokens]}
        return [row for method in self.methods for row in named.get(method, [method])]

    def of(self, known: Collection[str]) -> list[Method]:
        """Those of some methods that are run."""
        return [method for method in self.methods if method in known]


def makers(model: VisionModel, bench: Bench) -> list[MapMaker]:
    """What makes the maps of all methods, in as few passes as can be."""
    found: list[MapMaker] = []
    if plain := bench.of(PLAIN):
        found.append(PlainMaps(model, plain, bench.tokens, bench.directions, bench.convention))
    if graded := bench.of(GRADIENT_METHODS):
        found.append(GradientMaps(model, graded))
    if relevant := bench.of(RELEVANCE):
        found.append(RelevanceMaps(model, relevant))
    return found
