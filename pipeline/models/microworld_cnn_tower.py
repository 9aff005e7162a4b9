"""The last stage of the embedded world's CNN, as a tower of one block without attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.microworld.zoo import Cnn

from .alone import ImageAlone
from .microworld import arguments
from .norms import Linear
from .pixels import PixelBlock
from .reading import Fixed
from .tower import Entrance, Left, Norm, Tail, float64

if TYPE_CHECKING:
    from .loading import VisionModel


def build(config: dict[str, Any]) -> ImageAlone:
    """The zoo's CNN, random weights."""
    return ImageAlone(Cnn(**arguments(config)))


class Passing(Fixed):
    """The mean over positions of what passes the last ReLU: which does, the last run tells."""

    queries = None
    passes_btd: Tensor
    """1 where the ReLU is open, else 0."""

    def __call__(self, values_bt: Tensor) -> Tensor:
        return (values_bt * self.passes_btd).mean(1)


class Branch(PixelBlock):
    """What the last block adds to its shortcut; a neuron is a channel of it."""

    written_btd: Tensor
    """Of the batch that the tower was entered with last."""

    def __init__(self, model: VisionModel, reading: Passing) -> None:
        super().__init__(model.width, reading)
        self._wide = model.wide

    @property
    def down(self) -> Linear:
        return torch.eye(self.width, **self._wide), torch.zeros(self.width, **self._wide)

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        return self.written_btd, self.written_btd


class CnnTower(Entrance):
    """Entered by the shortcut of the last block, which is then run, so that it is known what passes
    the ReLU behind it."""

    late = False

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual, self.read = model, model.visual, Passing()
        self._branch = Branch(model, self.read)
        self.blocks = [self._branch]

    @property
    def tail(self) -> Tail:
        classifier = self._visual.fc
        return Tail(
            Norm.none(self._model.width), float64(classifier.weight).T, float64(classifier.bias)
        )

    def stem(self, images_bchw: Tensor) -> Tensor:
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

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        x_btd = self.enter(images_bchw)
        return x_btd, torch.zeros_like(x_btd[0])

    def leave(self, x_btd: Tensor) -> Left:
        pooled_bd = x_btd.relu().mean(1)
        ones_b = torch.ones_like(pooled_bd[:, 0])
        return Left(self._visual.fc(pooled_bd), torch.zeros_like(ones_b), ones_b)
