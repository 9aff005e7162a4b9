"""Blocks of convolutional networks: what they write at every position, and no attention."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from .errors import UnsupportedModel
from .norms import Linear
from .reading import Reading
from .tower import Attention, Block, Layers, Neurons, Norm, Weights, Written, float64, neurons


class PixelBlock(ABC):
    """x += mlp(x), with `down` and `mlp` as families have them.

    Parameters
    ----------
    width : int
        Of the stream.
    reading : Reading
    """

    def __init__(self, width: int, reading: Reading) -> None:
        self.width, self.reading = width, reading

    @property
    @abstractmethod
    def down(self) -> Linear:
        """See `Block`."""

    @property
    def mlp_bias(self) -> Tensor:
        return self.down[1]

    @abstractmethod
    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        """See `Block`."""

    @property
    def layers(self) -> Layers:
        raise UnsupportedModel(
            "relevance is handed back through attention, and this model has none: choose other "
            "methods"
        )

    @property
    def weights(self) -> Weights:
        (down, bias), width = self.down, self.width
        return Weights(
            norm=Norm.none(width),
            value_hkd=np.zeros((0, 0, width)),
            value_bias_hk=np.zeros((0, 0)),
            out_dhk=np.zeros((width, 0, 0)),
            out_bias_d=np.zeros(width),
            down_dn=float64(down),
            down_bias_d=float64(bias),
        )

    def attention(self, x_btd: Tensor, normed_btd: Tensor | None = None) -> Attention:
        none = x_btd.new_zeros(len(x_btd), 0, x_btd.shape[1], 0)
        return Attention(none, none, none, self.reading)

    def inverse_std(self, x_btd: Tensor) -> Tensor:
        return torch.ones_like(x_btd[..., 0])

    def attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        return x_btd, x_btd.new_zeros(len(x_btd), 0)

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        return x_btd

    def rest(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Written:
        x_btd, u_bd, _, written_btd, _ = self.neurons(x_btd, attention)
        return Written(x_btd, u_bd, self.reading(written_btd))

    def neurons(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Neurons:
        return neurons(self, x_btd, attention)
