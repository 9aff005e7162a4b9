"""The image tower under autograd: attention patterns as what a score is derived by.

Weights stand still: only activations carry gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models import Block, Tower
from pipeline.models.tower import Attention


@dataclass(frozen=True, eq=False)
class Step:
    """One block of a pass."""

    block: Block
    x_btd: Tensor
    """The stream as it enters the block."""
    attention: Attention
    patterns_bhqt: Tensor
    """α, as the block used it: gradients may be asked for with regard to it."""
    behind_bqd: Tensor
    """The stream behind the block: in the last one, only what the tail reads."""


def steps(tower: Tower, images_bchw: Tensor, first: int = 0) -> Iterator[Step]:
    """A pass block by block.

    Parameters
    ----------
    tower : Tower
    images_bchw : Tensor
        From `Preprocess.to_tensor`.
    first : int
        The first layer whose patterns gradients are asked for; what comes before it keeps nothing.
    """
    with torch.no_grad():
        x_btd = tower.enter(images_bchw)
    for layer, block in enumerate(tower.blocks):
        with torch.set_grad_enabled(layer >= first):
            attention = block.attention(x_btd)
            patterns_bhqt = attention.patterns()
            if layer == first:
                patterns_bhqt.requires_grad_()
            between_bqd = block.write(x_btd, patterns_bhqt @ attention.values)
            behind_bqd = between_bqd + block.mlp(between_bqd)[1]
        yield Step(block, x_btd, attention, patterns_bhqt, behind_bqd)
        x_btd = behind_bqd


def score(tower: Tower, x_btd: Tensor, texts_be: Tensor) -> Tensor:
    """⟨embedding/‖embedding‖, text⟩ of each picture, (batch,), of a stream as the tail reads it."""
    embedding_be = tower.leave(x_btd).embedding_be
    return (embedding_be * texts_be).sum(1) / embedding_be.norm(dim=1)
