"""Gains of all that an embedding is made of, as one vector; the edits that are compared.

The order is: heads by layer, the start and the MLPs, the output bias of every layer's attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.heads.choices import Head

# Random sets, and the layers whose attention the published setting leaves as it is.
TRIALS, LATE = 5, 4
# A head counts as taken away whose gain is below this.
AWAY = 0.5


@dataclass(frozen=True)
class Components:
    """What an embedding is made of.

    Attributes
    ----------
    layers, heads : int
        Of the model; heads are those of a layer.
    """

    layers: int
    heads: int

    @property
    def count(self) -> int:
        """S: how many gains there are."""
        return self.layers * self.heads + self.layers + 1 + self.layers

    def split(self, gains_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gains of heads (L, H), of the start and the MLPs (L + 1,), of biases (L,): views."""
        heads = self.layers * self.heads
        blocks = heads + self.layers + 1
        return (
            gains_s[:heads].reshape(self.layers, self.heads),
            gains_s[heads:blocks],
            gains_s[blocks:],
        )

    def without(self, heads: Sequence[Head]) -> np.ndarray:
        """Gains (S,) float64: these heads at their means."""
        gains_s = np.ones(self.count)
        heads_lh, _, _ = self.split(gains_s)
        for head in heads:
            heads_lh[head] = 0
        return gains_s

    def with_gains(self, heads_lh: np.ndarray) -> np.ndarray:
        """Gains (S,) float64: heads as given, all else as it is."""
        gains_s = np.ones(self.count)
        self.split(gains_s)[0][:] = heads_lh
        return gains_s

    def published(self, gains_s: np.ndarray) -> np.ndarray:
        """The same with all MLPs and all but the last four attention layers at their means.

        Gandelsman 2025, section 2.4: heads of these four are edited.
        """
        found = gains_s.copy()
        heads_lh, blocks_s, bias_l = self.split(found)
        early = max(0, self.layers - LATE)
        heads_lh[:early], bias_l[:early], blocks_s[1:] = 0, 0, 0
        return found

    def away(self, gains_s: np.ndarray) -> list[Head]:
        """Heads that are taken away, or nearly so."""
        layers, heads = np.nonzero(self.split(gains_s)[0] < AWAY)
        return list(zip(layers.tolist(), heads.tolist(), strict=True))

    def random(self, heads: Sequence[Head], seed: int = 0) -> list[list[Head]]:
        """Five sets of as many heads, drawn from the layers that the given ones may be from.

        These are the last four and, where some of the given ones are from earlier layers, all
        since. The published sets were of ten heads; of which layers is not said.
        """
        if not heads:
            return []
        first = min([max(0, self.layers - LATE), *(layer for layer, _ in heads)])
        pool = [(i, h) for i in range(first, self.layers) for h in range(self.heads)]
        rng = np.random.default_rng(seed)
        return [
            sorted(pool[i] for i in rng.choice(len(pool), len(heads), replace=False))
            for _ in range(TRIALS)
        ]
