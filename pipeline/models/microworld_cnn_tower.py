"""The last stage of the embedded world's CNN, as a tower of one block without attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.microworld.zoo import Cnn

from .errors import UnsupportedModel
from .microworld import arguments
from .timm_alone import TimmAlone
from .tower import Attention, Layers, Left, Norm, Tail, Weights, Written, float64

if TYPE_CHECKING:
    from .loading import VisionModel


def build(config: dict[str, Any]) -> TimmAlone:
    """The zoo's CNN, random weights."""
    return TimmAlone(Cnn(**arguments(config)))


class Passing:
    """The mean over positions of what passes the last ReLU: which does, the last run tells."""

    queries = None
    passes_btd: Tensor
    """1 where the ReLU is open, else 0."""

    def __call__(self, values_bt: Tensor) -> Tensor:
        return (values_bt * self.passes_btd).mean(1)

    def forget(self) -> None:
        pass  # the next run tells anew


class Branch:
    """What the last block adds to its shortcut; a neuron is a channel of it."""

    reading: Passing
    written_btd: Tensor
    """Of the batch that the tower was entered with last."""

    def __init__(self, width: int, reading: Passing) -> None:
        self.width, self.reading = width, reading

    @property
    def weights(self) -> Weights:
        width = self.width
        return Weights(
            norm=Norm.none(width),
            value_hkd=np.zeros((0, 0, width)),
            value_bias_hk=np.zeros((0, 0)),
            out_dhk=np.zeros((width, 0, 0)),
            out_bias_d=np.zeros(width),
            down_dn=np.eye(width),
            down_bias_d=np.zeros(width),
        )

    @property
    def layers(self) -> Layers:
        raise UnsupportedModel(
            "relevance is handed back through attention and MLPs, and the last stage of this model "
            "has neither: choose other methods"
        )

    @property
    def down(self) -> tuple[Tensor, Tensor]:
        like = self.written_btd
        return torch.eye(self.width).to(like), torch.zeros(self.width).to(like)

    def attention(self, x_btd: Tensor) -> Attention:
        none = x_btd.new_empty(len(x_btd), 0, x_btd.shape[1], 0)
        return Attention(none, none, none, self.reading)

    def inverse_std(self, x_btd: Tensor) -> Tensor:
        return torch.ones_like(x_btd[..., 0])

    def attend(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        return x_btd, x_btd.new_empty(len(x_btd), 0)

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        return x_btd

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        return self.written_btd, self.written_btd

    def rest(self, x_btd: Tensor, attention: Attention) -> Written:
        x_btd, u_bd = self.attend(x_btd, attention)
        return Written(x_btd.add_(self.written_btd), u_bd, self.reading(self.written_btd))


class CnnTower:
    """Entered by the shortcut of the last block, which is then run, so that it is known what passes
    the ReLU behind it."""

    late = False

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual, self.read = model, model.visual, Passing()
        self._branch = Branch(model.width, self.read)
        self.blocks = [self._branch]

    @property
    def tail(self) -> Tail:
        classifier = self._visual.fc
        return Tail(
            Norm.none(self._model.width), float64(classifier.weight).T, float64(classifier.bias)
        )

    def start(self, images_bchw: Tensor) -> Tensor:
        self._model.refuse_other_images(images_bchw)
        visual, dtype = self._visual, self._model.dtype
        images = images_bchw.to(**self._model.wide)
        narrow = dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(images.device.type, dtype if narrow else None, enabled=narrow):
            stem_bchw = visual.act1(visual.bn1(visual.conv1(images)))
            before_bchw = visual.layer3(visual.layer2(visual.layer1(stem_bchw)))
            (block,) = visual.layer4
            shortcut_bchw = block.downsample(before_bchw)
            branch_bchw = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(before_bchw)))))
        shortcut_btd, self._branch.written_btd = (
            x.flatten(2).transpose(1, 2).to(images.dtype) for x in (shortcut_bchw, branch_bchw)
        )
        self.read.passes_btd = (shortcut_btd + self._branch.written_btd > 0).to(images.dtype)
        return shortcut_btd

    enter = start

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        x_btd = self.enter(images_bchw)
        return x_btd, torch.zeros_like(x_btd[0])

    def leave(self, x_btd: Tensor) -> Left:
        pooled_bd = x_btd.relu().mean(1)
        ones_b = torch.ones_like(pooled_bd[:, 0])
        return Left(self._visual.fc(pooled_bd), torch.zeros_like(ones_b), ones_b)
