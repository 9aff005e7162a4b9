"""What a tail reads of the tokens: one row, or a mean over tokens.

A reading is linear in what every token has, and the same for the stream and for all that is
written to it: that is what makes contributions add up.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Reading(Protocol):
    """Of something that every token has, (batch, token, …), what the tail reads, (batch, …)."""

    @property
    def queries(self) -> int | None:
        """How many of the first tokens have to be carried past the last block's keys; None: all."""

    def __call__(self, values_bt: Tensor) -> Tensor:
        """Read; values may lack the tokens behind `queries`."""

    def forget(self) -> None:
        """Begin another batch: nothing that was known of the last one is left."""


class Fixed:
    """A reading that is the same for every batch."""

    def forget(self) -> None:
        """Nothing is known of a batch."""


class ClassToken(Fixed):
    """The class token's row."""

    queries = 1

    def __call__(self, values_bt: Tensor) -> Tensor:
        return values_bt[:, 0]


class PoolRow(Fixed):
    """The row that a pool writes; of the tokens that it looks at nothing is read.

    Parameters
    ----------
    width : int
        Of that row.
    """

    queries = 1

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, values_bt: Tensor) -> Tensor:
        if values_bt.shape[1] == 1:  # no pool looks at one token alone
            return values_bt[:, 0]
        return values_bt.new_zeros(len(values_bt), self.width)


class Mean(Fixed):
    """The mean over all tokens from one on.

    Parameters
    ----------
    first : int
        The first token that counts.
    """

    queries = None

    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(self, values_bt: Tensor) -> Tensor:
        return values_bt[:, self.first :].mean(1)


class WeighedMean:
    """Σ_t values_t/(T σ_t), over the tokens from one on: a mean of tokens that are normed first.

    σ_t is known only behind the last block. Until it is, nothing is read: values are given back as
    they are, and can be read later.

    Parameters
    ----------
    first : int
        The first token that counts.
    """

    queries = None

    def __init__(self, first: int) -> None:
        self.first = first
        self.weights_bt: Tensor | None = None

    def weigh(self, inverse_std_bt: Tensor) -> Tensor:
        """Know 1/σ of every token; Σ_t 1/(T σ_t), (batch,)."""
        weights_bt = inverse_std_bt / (inverse_std_bt.shape[1] - self.first)
        weights_bt[:, : self.first] = 0
        self.weights_bt = weights_bt
        return weights_bt.sum(1)

    def __call__(self, values_bt: Tensor) -> Tensor:
        if self.weights_bt is None:
            return values_bt
        weights_bt = self.weights_bt.to(values_bt.dtype)
        return torch.einsum("bt,bt...->b...", weights_bt, values_bt)

    def forget(self) -> None:
        self.weights_bt = None
