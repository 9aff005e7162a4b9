"""What a family of models offers, and all that the rest asks of an image tower.

A tower is entered with pixels, run block by block along the residual stream, and left through its
tail. What the tail reads of the stream, the class token for example, is linear in what every head
and MLP wrote; so the decomposition needs no more of a block than its attention, its MLP and their
weights. ``docs/add-a-family.md`` says how a family is added.

An attention pool is a tower of one layer: what comes before it is its trunk, by which it is
entered.

Axis letters are those of docs/glossary.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .norms import Linear, centred
from .reading import Reading

Array = NDArray[np.float64]


class Tower(Protocol):
    """An image tower that runs block by block, where its model is, in its model's dtype.

    It runs one batch at a time: what is read of a batch may be kept until the next is entered.
    """

    @property
    def blocks(self) -> Sequence[Block]:
        """In order; the last need not carry on what the tail does not read."""

    @property
    def trunk(self) -> Sequence[Block]:
        """Of an attention pool, the blocks before it; else empty."""

    @property
    def tail(self) -> Tail:
        """From the stream to the embedding."""

    @property
    def late(self) -> bool:
        """Whether what is read is known only behind the last block: then `start` in place of
        `enter` leaves all unread, to be read once the stream was left."""

    def stem(self, images_bchw: Tensor) -> Tensor:
        """The residual stream as it enters the trunk's first block, or, without a trunk, layer 0,
        (batch, token, width)."""

    def hand_over(self, values_bt: Tensor) -> Tensor:
        """Of something that every token of the trunk has, (batch, token, …), that of the tokens
        that layer 0 gets."""

    def start(self, images_bchw: Tensor) -> Tensor:
        """The residual stream as it enters layer 0, (batch, token, width)."""

    def enter(self, images_bchw: Tensor) -> Tensor:
        """The same, with all known that is needed to read it: of a late tower a further pass."""

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """What the stream is made of, to be added, and normed where the family does: prefix and
        patches as they are embedded, (batch, token, width), and positions, (token, width)."""

    @property
    def read(self) -> Reading:
        """What the tail reads of something that every token has: (batch, token, …) without its
        token axis. Linear, and the same for the stream and for all that is written to it."""

    def leave(self, x_btd: Tensor) -> Left:
        """What becomes of the stream behind the last block."""


class Entrance(ABC):
    """How towers are entered, for families to give a `stem`."""

    trunk: Sequence[Block] = ()

    @abstractmethod
    def stem(self, images_bchw: Tensor) -> Tensor:
        """See `Tower`."""

    def hand_over(self, values_bt: Tensor) -> Tensor:
        """See `Tower`."""
        return values_bt

    def start(self, images_bchw: Tensor) -> Tensor:
        """See `Tower`."""
        return self.hand_over(through(self.trunk, self.stem(images_bchw)))

    def enter(self, images_bchw: Tensor) -> Tensor:
        """See `Tower`; a late tower has its own."""
        return self.start(images_bchw)


class Block(Protocol):
    """One residual block: attention, then an MLP."""

    @property
    def weights(self) -> Weights:
        """Computed anew whenever asked for."""

    @property
    def layers(self) -> Layers:
        """What it is made of, as run.

        Raises
        ------
        UnsupportedModel
            If it is made of more than `Layers` says.
        """

    @property
    def down(self) -> tuple[Tensor, Tensor]:
        """What neurons write, as run: weight (width, neuron) and bias (width,)."""

    @property
    def mlp_bias(self) -> Tensor | None:
        """What `mlp` writes whatever its neurons, (width,); None where every token gets its own."""

    def attention(self, x_btd: Tensor, normed_btd: Tensor | None = None) -> Attention:
        """Queries, keys and values of the stream; `normed_btd` where the block before it made that
        already (`Written.normed_btd`)."""

    def inverse_std(self, x_btd: Tensor) -> Tensor:
        """1/σ by which the norm before the attention multiplies each token, (batch, token)."""

    def attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        """The stream behind the attention, and u, what the tail reads of its heads before the
        output projection, (batch, heads · head_dim). Overwrites `x_btd`."""

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        """The stream behind the attention, given what heads gathered for each query that there is,
        Σ α_i v_i, (batch, head, query, head_dim). Overwrites nothing, so that gradients pass."""

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        """Neurons after the activation, (batch, token, neuron), and what they write with `down`."""

    def rest(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Written:
        """Attention and MLP. Overwrites `x_btd`. `behind` is the block that gets the stream next,
        if what that begins with may be made at once."""

    def neurons(self, x_btd: Tensor, attention: Attention, behind: Block | None = None) -> Neurons:
        """The same, and what `mlp` gives."""


def neurons(block: Block, x_btd: Tensor, attention: Attention) -> Neurons:
    """`Block.neurons` in its parts."""
    x_btd, u_bd = block.attend(x_btd, attention)
    hidden_btn, written_btd = block.mlp(x_btd)
    return Neurons(x_btd.add_(written_btd), u_bd, hidden_btn, written_btd)


def through(blocks: Sequence[Block], x_btd: Tensor) -> Tensor:
    """The stream behind blocks that run one after another. Overwrites `x_btd`."""
    normed_btd = None
    for block, behind in zip(blocks, [*blocks[1:], None], strict=False):
        attention = block.attention(x_btd, normed_btd)
        normed_btd = None  # its memory is needed meanwhile
        x_btd, *_, normed_btd = block.rest(x_btd, attention, behind)
    return x_btd


class Written(NamedTuple):
    """What a block made of the stream."""

    stream_btd: Tensor
    """As it leaves the block."""
    u_bd: Tensor
    """What the tail reads of its heads before the output projection, (batch, heads · head_dim)."""
    mlp_bd: Tensor
    """What it reads of the MLP's output, (batch, width)."""
    bias_weight_b: Tensor | None = None
    """What `Weights.varying_bias_d` counts, where there is one."""
    normed_btd: Tensor | None = None
    """The stream behind the first norm of the next block, if it was made."""


class Neurons(NamedTuple):
    """What a block made of the stream, its MLP's neurons apart."""

    stream_btd: Tensor
    """As it leaves the block."""
    u_bd: Tensor
    """As in `Written`."""
    hidden_btn: Tensor
    """Neurons after the activation, (batch, token, neuron)."""
    written_btd: Tensor
    """What they wrote."""
    normed_btd: Tensor | None = None
    """As in `Written`."""


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's attention; each (batch, head, token, head_dim).

    Queries may be those alone that the tail reads.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    reading: Reading
    bias_hqt: Tensor | None = None
    """Added to the logits, (head, query, token)."""
    scale: Callable[[Tensor], Tensor] | None = None
    """What norms inside the block multiply all heads' output by, (batch, query) from (batch, query,
    heads · head_dim): u is taken with it."""

    channels_btc: Tensor | None = None
    """Of the pool of a convolutional network: what values are W_V of, but for the pool's positions,
    (batch, token, channel)."""

    def pattern(self) -> Tensor:
        """What the tail reads of α, over σ of norms inside the block, (batch, head, token): u is
        Σ pattern_i v_i over the tokens."""
        patterns_bhqt = self._patterns(self.reading.queries)
        if self.scale is not None:
            mixed_bqd = (patterns_bhqt @ self.values).transpose(1, 2).flatten(2)
            patterns_bhqt = patterns_bhqt * self.scale(mixed_bqd)[:, None, :, None]
        return self.reading(patterns_bhqt.transpose(1, 2))

    def patterns(self) -> Tensor:
        """α of every query that there is, (batch, head, query, token)."""
        return self._patterns(None)

    def _patterns(self, queries: int | None) -> Tensor:
        logits_bhqt = self.queries[:, :, :queries] @ self.keys.transpose(-1, -2)
        logits_bhqt = logits_bhqt * self.queries.shape[-1] ** -0.5
        if self.bias_hqt is not None:
            logits_bhqt = logits_bhqt + self.bias_hqt[:, :queries]
        return logits_bhqt.softmax(-1)

    def weighted_values(self) -> Tensor:
        """α_i v_i, (batch, token, heads · head_dim): their sum over tokens is u."""
        pattern_bth1 = self.pattern().transpose(1, 2).unsqueeze(-1)
        return (self.values.transpose(1, 2) * pattern_bth1).flatten(2)


@dataclass(frozen=True, eq=False)
class Layers:
    """What a block is made of, as run: x += out(attention(qkv(norm_1(x)))), then
    x += down(activation(up(norm_2(x))))."""

    norm_1: Callable[[Tensor], Tensor]
    qkv: Linear
    """Queries, keys and values in one, (3 · heads · head_dim, width)."""
    out: Linear
    norm_2: Callable[[Tensor], Tensor]
    up: Linear
    activation: Callable[[Tensor], Tensor]
    down: Linear


@dataclass(frozen=True, eq=False)
class Left:
    """What the tail made of a batch."""

    embedding_be: Tensor
    """The model's own output, not normalised."""
    mean_b: Tensor
    """The mean that the last norm subtracted."""
    std_b: Tensor
    """What it divided by: σ; 1 where each token is normed for itself, or nothing is."""
    bias_weight_b: Tensor | None = None
    """Of a late tower, what the attention's biases count in every layer."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm's weights: x becomes γ ⊙ (C x)/σ + β; float64."""

    weight: Array
    """γ, (width,)."""
    bias: Array
    """β, (width,)."""
    centred: bool = True
    """Whether C removes the mean over the width, as in LayerNorm; else C = I."""

    @classmethod
    def of(cls, module: nn.Module) -> Norm:
        """Those of a LayerNorm or an RMSNorm that has a weight."""
        weight = float64(module.weight)  # type: ignore[arg-type]
        bias = getattr(module, "bias", None)
        held = np.zeros_like(weight) if bias is None else float64(bias)
        return cls(weight, held, centred(module))

    @classmethod
    def none(cls, width: int) -> Norm:
        """Where there is no norm."""
        return cls(np.ones(width), np.zeros(width), False)

    def fold(self, after: Array, axis: int) -> Array:
        """A matrix that is applied behind the norm, as one that is applied before it and still to
        be divided by σ: `axis` is the width."""
        shape = [1] * after.ndim
        shape[axis] = -1
        scaled = after * self.weight.reshape(shape)
        return scaled - scaled.mean(axis, keepdims=True) if self.centred else scaled


@dataclass(frozen=True, eq=False)
class Weights:
    """A block's linear parts; float64, on the CPU."""

    norm: Norm
    """Before the attention."""
    value_hkd: Array
    """W_V, (head, head_dim, width)."""
    value_bias_hk: Array
    out_dhk: Array
    """W_O, (width, head, head_dim)."""
    out_bias_d: Array
    """What the attention writes to the stream whatever its input."""
    down_dn: Array
    """What neurons write, (width, neuron)."""
    down_bias_d: Array
    varying_bias_d: Array | None = None
    """The same in another multiple for every image: `Written.bias_weight_b`."""


@dataclass(frozen=True, eq=False)
class Tail:
    """From what is read of the stream to the embedding: norm, then projection; float64."""

    norm: Norm
    projection_de: Array
    """P, (width, embed)."""
    bias_e: Array | None = None
    """Of the projection."""


def float64(tensor: Tensor) -> Array:
    """A parameter as NumPy has it, in float64."""
    array: Array = tensor.detach().cpu().to(torch.float64).numpy()
    return array
