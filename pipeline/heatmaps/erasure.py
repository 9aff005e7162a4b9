"""Deletion and insertion: what a class keeps of its probability as patches are taken away.

A map ranks the patches of its picture. They are removed a step at a time, the highest first
(`deletion`) or the lowest first (`insertion`: read backwards, the highest are put in first). A map
that is right about the model has a small area under the first curve and a large one under the
second; a random map has both alike (Petsiuk et al. 2018, who blur or grey pixels).

A patch is removed by leaving its token out of the stream as it enters layer 0. For a ViT that is
exact: positions stay with their tokens, and attention has fewer of them to choose from; no grey
or blurred pixels are seen that no picture has.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.models import UnsupportedModel, VisionModel
from pipeline.models.prenorm import PreNormBlock
from pipeline.models.tower import through

from .asked import Asked

Pair = tuple[Tensor, Tensor]


class Erasure:
    """Curves and areas of maps, without gradients.

    Parameters
    ----------
    model
        From `load_model`.
    steps
        In how many equal steps, to whole patches, all patches of a picture are removed; more steps
        than patches are one a patch.

    Attributes
    ----------
    fractions_s : Tensor
        The share of patches removed at every point of a curve: from 0, the picture as it is, to 1,
        where the model sees its prefix alone: the same for every picture and every map.

    Notes
    -----
    Every step of every map and direction is a pass of a batch over the tokens that are left: about
    `steps` - 1 plain passes for a map's two curves, beside one for the batch.
    """

    def __init__(self, model: VisionModel, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps {steps}: patches are removed in 1 step or more")
        if model.reading != "class-token":
            raise UnsupportedModel(
                f"patches are removed until a class token is left alone, and {model.name} is read "
                f"by {model.reading}"
            )
        self.model = model
        self._tower = model.tower()
        if any(isinstance(block, PreNormBlock) and block.placed for block in self._tower.blocks):
            raise UnsupportedModel(
                f"patches are left out of the stream, and attention of {model.name} knows of each "
                "where it stands: leave out `steps`"
            )
        self._patches = model.tokens - model.prefix
        self._removed = sorted({round(s * self._patches / steps) for s in range(steps + 1)})
        self.fractions_s = torch.tensor(self._removed, **model.wide) / self._patches

    def __call__(
        self, images_bchw: Tensor, asked: Asked, maps: Mapping[str, Tensor]
    ) -> dict[str, Pair]:
        """Areas under `curves` by the trapezoid rule, 0 … 1: deletion and insertion, (batch,)."""
        return {
            row: (self.area(deletion_bs), self.area(insertion_bs))
            for row, (deletion_bs, insertion_bs) in self.curves(images_bchw, asked, maps).items()
        }

    def area(self, curve_bs: Tensor) -> Tensor:
        """Mean height of a curve, (batch,)."""
        return torch.trapezoid(curve_bs, self.fractions_s)

    @torch.inference_mode()
    def curves(
        self, images_bchw: Tensor, asked: Asked, maps: Mapping[str, Tensor]
    ) -> dict[str, Pair]:
        """The class's probability at every fraction, (batch, step): deletion and insertion.

        Parameters
        ----------
        images_bchw
            From `Preprocess.to_tensor`.
        asked
            The probability is the softmax over all its classes at the model's logit scale.
        maps
            By row, (batch, rows, columns): only their order counts, neither scale nor sign.
            Patches that are alike go in the order of their positions, in both directions.
        """
        x_btd = self._tower.start(images_bchw)
        whole_b = self._probability(x_btd.clone(), asked)
        bare_b = self._probability(x_btd[:, : self.model.prefix].clone(), asked)

        def curve(order_bp: Tensor) -> Tensor:
            between = [
                self._probability(self._kept(x_btd, order_bp[:, removed:]), asked)
                for removed in self._removed[1:-1]
            ]
            return torch.stack([whole_b, *between, bare_b], 1)

        found = {}
        for row, map_brc in maps.items():
            if map_brc.shape != (len(x_btd), *self.model.grid):
                raise ValueError(
                    f"the map {row!r} has shape {tuple(map_brc.shape)}, not (batch, rows, columns) "
                    f"{(len(x_btd), *self.model.grid)}"
                )
            falling_bp, rising_bp = (
                map_brc.flatten(1).argsort(dim=1, descending=down, stable=True)
                for down in (True, False)
            )
            found[row] = curve(falling_bp), curve(rising_bp)
        return found

    def _kept(self, x_btd: Tensor, patches_bp: Tensor) -> Tensor:
        """The stream of the prefix and of some patches of each picture; a copy."""
        prefix = self.model.prefix
        index_bpd = (prefix + patches_bp)[..., None].expand(-1, -1, x_btd.shape[2])
        return torch.cat([x_btd[:, :prefix], x_btd.gather(1, index_bpd)], 1)

    def _probability(self, x_btd: Tensor, asked: Asked) -> Tensor:
        """The probability of the class that is asked for, (batch,). Overwrites `x_btd`."""
        self._tower.read.forget()  # what is read on the way is not needed
        embedding_be = self._tower.leave(through(self._tower.blocks, x_btd)).embedding_be
        cosines_bc = embedding_be @ asked.texts_ce.T / embedding_be.norm(dim=1, keepdim=True)
        probabilities_bc = (self.model.module.logit_scale.exp() * cosines_bc).softmax(1)
        return probabilities_bc.gather(1, asked.classes_b[:, None])[:, 0]
