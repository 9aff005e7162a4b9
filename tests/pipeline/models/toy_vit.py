"""A toy family: a ViT with LayerScale and two registers, written as plainly as can be.

With its row in `FAMILIES`, this file is all that a new family takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models import VisionModel
from pipeline.models.family import Sizes
from pipeline.models.mlps import PlainMlp
from pipeline.models.prenorm import PreNormBlock, embed_patches
from pipeline.models.reading import ClassToken
from pipeline.models.tower import Left, Norm, Tail, float64

REGISTERS = 2
NAME = "toy-vit"


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.qkv, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.between, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.scale_1, self.scale_2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            y.view(b, t, self.heads, -1).transpose(1, 2)
            for y in self.qkv(self.before(x)).chunk(3, -1)
        )
        pattern = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.scale_1(self.out((pattern @ v).transpose(1, 2).reshape(b, t, d)))
        return x + self.scale_2(self.down(nn.functional.gelu(self.up(self.between(x)))))


class Picture(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, patch: int, patches: int, out: int):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1 + REGISTERS, width))
        self.positions = nn.Parameter(torch.zeros(1 + REGISTERS + patches, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.after, self.head = nn.LayerNorm(width), nn.Linear(width, out, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).mT
        x = torch.cat([self.first.expand(len(images), -1, -1), patches], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.after(x[:, 0]))


class Toy(nn.Module):
    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.visual = Picture(**sizes)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def encode_image(self, images: Tensor) -> Tensor:
        return self.visual(images)


# -- the family ----------------------------------------------------------------------------


def faults(config: dict[str, Any]) -> list[str]:
    named = config["vision_cfg"].get("timm_model_name")
    return [] if named == NAME else [f"its image tower is {named}, not {NAME}"]


def sizes(config: dict[str, Any]) -> Sizes:
    vision = config["vision_cfg"]
    height, width = vision["image_size"]
    side, heads = vision["patch_size"], vision["width"] // vision["head_width"]
    return Sizes(
        image_size=(height, width),
        grid=(height // side, width // side),
        prefix=1 + REGISTERS,
        layers=vision["layers"],
        heads=heads,
        head_dim=vision["head_width"],
        width=vision["width"],
        mlp_width=4 * vision["width"],
        embed_dim=config["embed_dim"],
        activation="gelu",
    )


def parameters(config: dict[str, Any]) -> int | None:
    return None


def build(config: dict[str, Any]) -> Toy:
    found = sizes(config)
    return Toy(
        width=found.width,
        layers=found.layers,
        heads=found.heads,
        patch=config["vision_cfg"]["patch_size"],
        patches=found.grid[0] * found.grid[1],
        out=found.embed_dim,
    )


@torch.no_grad()
def prepare(module: Toy) -> None:
    for layer in module.visual.layers:
        for scale, linear in ((layer.scale_1, layer.out), (layer.scale_2, layer.down)):
            linear.weight.mul_(scale.gamma[:, None])
            linear.bias.mul_(scale.gamma)
            scale.gamma.fill_(1)


def tower(model: VisionModel) -> ToyTower:
    return ToyTower(model)


class ToyTower:
    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual, self.read = model, model.visual, ClassToken()
        self.blocks = [
            PreNormBlock(
                heads=model.heads,
                head_dim=model.head_dim,
                dtype=model.dtype,
                last=layer is self._visual.layers[-1],
                reading=self.read,
                norms=(layer.before, layer.between),
                qkv=(layer.qkv.weight, layer.qkv.bias),
                out=(layer.out.weight, layer.out.bias),
                mlp=PlainMlp(
                    (layer.up.weight, layer.up.bias),
                    nn.functional.gelu,
                    (layer.down.weight, layer.down.bias),
                ),
            )
            for layer in self._visual.layers
        ]

    @property
    def tail(self) -> Tail:
        return Tail(Norm.of(self._visual.after), float64(self._visual.head.weight).T)

    late = False

    def start(self, images_bchw: Tensor) -> Tensor:
        x_btd, positions_td = self.embed(images_bchw)
        return x_btd + positions_td

    enter = start

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        self._model.refuse_other_images(images_bchw)
        visual, images = self._visual, images_bchw.to(self._visual.first)
        patches_btd = embed_patches(images, visual.patch.weight) + visual.patch.bias
        first_btd = visual.first.expand(len(images), -1, -1)
        return torch.cat([first_btd, patches_btd], 1), visual.positions

    def leave(self, x_btd: Tensor) -> Left:
        class_bd, norm = self.read(x_btd), self._visual.after
        variance_b, mean_b = torch.var_mean(class_bd, -1, correction=0)
        embedding_be = self._visual.head(norm(class_bd))
        return Left(embedding_be, mean_b, (variance_b + norm.eps).sqrt())
