"""ConvNeXt as a module: looked at, made ready, and its last stage run block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .family import Sizes
from .narrow import narrow
from .norms import Linear, centred, inverse_std, linear_of
from .pixels import PixelBlock
from .reading import Mean
from .timm_trunk import in_one, trunk_of
from .tower import Entrance, Left, Norm, Tail

if TYPE_CHECKING:
    from .loading import VisionModel

NORMS = ("LayerNorm", "LayerNorm2d", "RmsNorm", "RmsNorm2d")


def examine(trunk: Any) -> list[str]:
    """What keeps a ConvNeXt from being taken apart, in words; it may be on ``meta``."""
    head, found = trunk.head, []
    if not isinstance(trunk.norm_pre, nn.Identity):
        found.append("it norms every position before their mean is taken (head_norm_first)")
    elif not isinstance(head.pre_logits, nn.Identity):
        found.append("its head has a hidden layer: what passes through that is no sum of parts")
    elif type(head.norm).__name__ not in NORMS:
        found.append(f"its last norm is of another kind ({type(head.norm).__name__})")
    if (pool := head.global_pool.pool_type) != "avg":
        found.append(f"it pools by {pool!r}, not by the mean over positions")
    if any(not isinstance(b.shortcut, nn.Identity) for b in trunk.stages[-1].blocks):
        found.append("blocks of its last stage change what they add to")
    return found


def measure(trunk: Any) -> Sizes:
    """Sizes of a ConvNeXt without faults, at the input that timm names; it may be on ``meta``."""
    blocks, width = trunk.stages[-1].blocks, trunk.num_features
    height, across = trunk.pretrained_cfg["input_size"][-2:]
    stride = trunk.feature_info[-1]["reduction"]
    return Sizes(
        image_size=(height, across),
        grid=(height // stride, across // stride),
        prefix=0,
        layers=len(blocks),
        heads=0,
        head_dim=0,
        width=width,
        mlp_width=len(blocks[0].mlp.fc1.weight),
        embed_dim=getattr(trunk.head.fc, "out_features", width),
        activation=type(blocks[0].mlp.act).__name__.lower(),
        reading="pixels",
    )


def prepare(module: Any) -> None:
    """Fold LayerScale of the last stage into the projections before it, which is exact."""
    trunk = trunk_of(module.visual)
    for block in trunk.stages[-1].blocks:
        if block.gamma is not None:
            with torch.no_grad():
                last = block.mlp.fc2  # a linear layer, or a convolution of one position
                last.weight.mul_(block.gamma.view(-1, *(1,) * (last.weight.ndim - 1)))
                if last.bias is not None:
                    last.bias.mul_(block.gamma)
            block.gamma = None


class ConvBlock(PixelBlock):
    """x += W_2·neurons(norm(convolution(x))) + b_2, at every position.

    Parameters
    ----------
    model : VisionModel
    block : nn.Module
        A `ConvNeXtBlock`.
    reading : Mean
    """

    def __init__(self, model: VisionModel, block: Any, reading: Mean) -> None:
        super().__init__(model.width, reading)
        self._model, self._block = model, block

    @property
    def down(self) -> Linear:
        weight, bias = linear_of(self._block.mlp.fc2)
        return weight.flatten(1), bias

    def mlp(self, x_btd: Tensor) -> tuple[Tensor, Tensor]:
        block, mlp, flat = self._block, self._block.mlp, not self._block.use_conv_mlp
        with narrow(self._model):
            x = block.conv_dw(x_btd.transpose(1, 2).unflatten(2, self._model.grid))
            x = block.norm(x.permute(0, 2, 3, 1) if flat else x)
            x = mlp.act(mlp.fc1(x))
            hidden = getattr(mlp, "grn", getattr(mlp, "norm", nn.Identity()))(x)
            written = mlp.fc2(hidden)
        last = 3 if flat else 1  # where the width is
        hidden_btn, written_btd = (y.movedim(last, 3).flatten(1, 2) for y in (hidden, written))
        return hidden_btn, written_btd.to(x_btd.dtype)


class ConvNextTower(Entrance):
    """A `ConvNeXt` of timm's: all before its last stage's blocks is how it is entered."""

    late = False

    def __init__(self, model: VisionModel) -> None:
        self._model, self.read = model, Mean(0)
        self._trunk = trunk_of(model.visual)
        self.blocks = [
            ConvBlock(model, block, self.read) for block in self._trunk.stages[-1].blocks
        ]

    @property
    def tail(self) -> Tail:
        projection_de, bias_e = in_one(self._projections(), self._model.width)
        return Tail(Norm.of(self._trunk.head.norm), projection_de, bias_e)

    def _projections(self) -> list[nn.Linear]:
        """What is done behind the last norm: the trunk's own, then open_clip's."""
        found = [self._trunk.head.fc]
        if self._trunk is not self._model.visual:
            found += self._model.visual.head
        return [layer for layer in found if isinstance(layer, nn.Linear)]

    def stem(self, images_bchw: Tensor) -> Tensor:
        self._model.refuse_other_images(images_bchw)
        stages = self._trunk.stages
        with narrow(self._model):
            x = self._trunk.stem(images_bchw.to(**self._model.wide))
            for stage in stages[:-1]:
                x = stage(x)
            x = stages[-1].downsample(x)
        # Of its own memory, as blocks add to it.
        return x.to(self._model.wide["dtype"]).permute(0, 2, 3, 1).contiguous().flatten(1, 2)

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        x_btd = self.start(images_bchw)
        return x_btd, x_btd.new_zeros(x_btd.shape[1:])

    def leave(self, x_btd: Tensor) -> Left:
        norm, read_bd = self._trunk.head.norm, self.read(x_btd)
        embedding_be = norm(read_bd[..., None, None]).flatten(1)
        for linear in self._projections():
            embedding_be = linear(embedding_be)
        std_b = 1 / inverse_std(norm, read_bd)
        return Left(embedding_be, read_bd.mean(-1) * centred(norm), std_b)
