"""A toy family: a ViT with LayerScale and two registers, written as plainly as can be.

With its row in `FAMILIES`, this file is all that a new family takes. ``timm_pool`` says what its
tail reads: the class token, the mean of patches that none stands before (``avg``), the mean of
normed patches (``avg-of-normed``), or an attention pool with an MLP (``map``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models import VisionModel
from pipeline.models.family import Sizes
from pipeline.models.mlps import PlainMlp
from pipeline.models.prenorm import PreNormBlock, embed_patches
from pipeline.models.reading import ClassToken, Mean, Reading, WeighedMean
from pipeline.models.tower import Attention, Entrance, Left, Norm, Tail, float64

REGISTERS = 2
NAME = "toy-vit"
CONFIG = {
    "embed_dim": 7,
    "vision_cfg": {
        "timm_model_name": NAME, "image_size": [12, 18], "patch_size": 6, "width": 16,
        "layers": 3, "head_width": 4,
    },
    "text_cfg": {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1},
}  # fmt: skip
READINGS = {
    "": "class-token", "avg": "mean", "avg-of-normed": "mean-of-normed", "map": "attention-pool",
}  # fmt: skip


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


class Pool(nn.Module):
    """One query over the tokens: y = out(attention), then y + MLP(norm(y))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.layer = nn.Parameter(torch.zeros(1, width)), Layer(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        layer, (b, _, d) = self.layer, x.shape
        weight, bias = layer.qkv.weight, layer.qkv.bias
        q = nn.functional.linear(self.query.expand(b, 1, d), weight[:d], bias[:d])
        k, v = nn.functional.linear(x, weight[d:], bias[d:]).chunk(2, -1)
        q, k, v = (y.view(b, -1, layer.heads, d // layer.heads).transpose(1, 2) for y in (q, k, v))
        pattern = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        y = layer.scale_1(layer.out((pattern @ v).transpose(1, 2).reshape(b, d)))
        return y + layer.scale_2(layer.down(nn.functional.gelu(layer.up(layer.between(y)))))


class Picture(nn.Module):
    def __init__(
        self, width: int, layers: int, heads: int, patch: int, patches: int, out: int, reading: str
    ):
        super().__init__()
        self.reading, self.prefix = reading, prefix_of(reading)
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(self.prefix, width))
        self.positions = nn.Parameter(torch.zeros(self.prefix + patches, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.after, self.head = nn.LayerNorm(width), nn.Linear(width, out, bias=False)
        self.pool = Pool(width, heads) if reading == "attention-pool" else None

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).mT
        x = torch.cat([self.first.expand(len(images), -1, -1), patches], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        if self.pool is not None:
            return self.head(self.pool(self.after(x)))
        if self.reading == "class-token":
            return self.head(self.after(x[:, 0]))
        if self.reading == "mean":
            return self.head(self.after(x.mean(1)))
        return self.head(self.after(x)[:, self.prefix :].mean(1))


class Toy(nn.Module):
    def __init__(self, **sizes: Any) -> None:
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


def prefix_of(reading: str) -> int:
    return 1 + REGISTERS if reading in ("class-token", "mean-of-normed") else 0


def sizes(config: dict[str, Any]) -> Sizes:
    vision = config["vision_cfg"]
    reading = READINGS[vision.get("timm_pool", "")]
    height, width = vision["image_size"]
    side, heads = vision["patch_size"], vision["width"] // vision["head_width"]
    return Sizes(
        image_size=(height, width),
        grid=(height // side, width // side),
        prefix=prefix_of(reading),
        layers=1 if reading == "attention-pool" else vision["layers"],
        heads=heads,
        head_dim=vision["head_width"],
        width=vision["width"],
        mlp_width=4 * vision["width"],
        embed_dim=config["embed_dim"],
        activation="gelu",
        reading=reading,
        varying_bias=reading == "mean-of-normed",
        trunk_layers=vision["layers"] if reading == "attention-pool" else 0,
        trunk_mlp_width=4 * vision["width"] if reading == "attention-pool" else 0,
        refined=("pool_neurons", "channels") if reading == "attention-pool" else (),
    )


def parameters(config: dict[str, Any]) -> int | None:
    return None


def build(config: dict[str, Any]) -> Toy:
    found = sizes(config)
    return Toy(
        width=found.width,
        layers=config["vision_cfg"]["layers"],
        heads=found.heads,
        patch=config["vision_cfg"]["patch_size"],
        patches=found.grid[0] * found.grid[1],
        out=found.embed_dim,
        reading=found.reading,
    )


@torch.no_grad()
def prepare(module: Toy) -> None:
    pool = module.visual.pool
    for layer in [*module.visual.layers, *([] if pool is None else [pool.layer])]:
        for scale, linear in ((layer.scale_1, layer.out), (layer.scale_2, layer.down)):
            linear.weight.mul_(scale.gamma[:, None])
            linear.bias.mul_(scale.gamma)
            scale.gamma.fill_(1)


def tower(model: VisionModel) -> ToyTower:
    return ToyPool(model) if model.reading == "attention-pool" else ToyTower(model)


def block(model: VisionModel, layer: Layer, before: nn.LayerNorm, **of: Any) -> PreNormBlock:
    kind = of.pop("kind", PreNormBlock)
    return kind(
        heads=model.heads,
        head_dim=model.head_dim,
        dtype=model.dtype,
        norms=(before, layer.between),
        qkv=(layer.qkv.weight, layer.qkv.bias),
        out=(layer.out.weight, layer.out.bias),
        mlp=PlainMlp(
            (layer.up.weight, layer.up.bias),
            nn.functional.gelu,
            (layer.down.weight, layer.down.bias),
        ),
        **of,
    )


class ToyTower(Entrance):
    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual = model, model.visual
        readings = {"mean": Mean(0), "mean-of-normed": WeighedMean(model.prefix)}
        self.read: Reading = readings.get(model.reading, ClassToken())
        self.late = model.reading == "mean-of-normed"
        layers, pooled = self._visual.layers, model.reading == "attention-pool"
        self.blocks = [
            block(
                model, layer, layer.before, reading=self.read,
                last=layer is layers[-1] and not pooled,
            )
            for layer in layers
        ]  # fmt: skip

    @property
    def tail(self) -> Tail:
        return Tail(Norm.of(self._visual.after), float64(self._visual.head.weight).T)

    def stem(self, images_bchw: Tensor) -> Tensor:
        if self.late:
            self.read.weights_bt = None
        x_btd, positions_td = self.embed(images_bchw)
        return x_btd + positions_td

    def enter(self, images_bchw: Tensor) -> Tensor:
        x_btd = self.start(images_bchw)
        if not self.late:
            return x_btd
        for each in self.blocks:
            x_btd = each.rest(x_btd, each.attention(x_btd)).stream_btd
        self.leave(x_btd)
        x_btd, positions_td = self.embed(images_bchw)
        return x_btd + positions_td

    def embed(self, images_bchw: Tensor) -> tuple[Tensor, Tensor]:
        self._model.refuse_other_images(images_bchw)
        visual, images = self._visual, images_bchw.to(self._visual.first)
        patches_btd = embed_patches(images, visual.patch.weight, images.dtype) + visual.patch.bias
        first_btd = visual.first.expand(len(images), -1, -1)
        return torch.cat([first_btd, patches_btd], 1), visual.positions

    def leave(self, x_btd: Tensor) -> Left:
        norm = self._visual.after
        if self.late:
            variance_bt, _ = torch.var_mean(x_btd, -1, correction=0)
            weight_b = self.read.weigh((variance_bt + norm.eps).rsqrt())
            normed_bd = norm(x_btd)[:, self._model.prefix :].mean(1)
            mean_b = self.read(x_btd).mean(-1)
            return Left(self._visual.head(normed_bd), mean_b, torch.ones_like(weight_b), weight_b)
        read_bd = self.read(x_btd)
        variance_b, mean_b = torch.var_mean(read_bd, -1, correction=0)
        embedding_be = self._visual.head(norm(read_bd))
        return Left(embedding_be, mean_b, (variance_b + norm.eps).sqrt())


class PoolBlock(PreNormBlock):
    """A query of its own in place of the tokens', and nothing of the stream carried on."""

    query: Tensor

    def attention(self, x_btd: Tensor, normed_btd: Tensor | None = None) -> Attention:
        found = super().attention(x_btd, normed_btd)
        (weight, bias), inner = self.qkv, self.heads * self.head_dim
        query_1d = self.query.to(self.dtype)
        queries_1d = nn.functional.linear(query_1d, weight[:inner], bias[:inner])
        queries = queries_1d.view(1, 1, self.heads, -1).transpose(1, 2)
        queries = queries.expand(len(x_btd), -1, -1, -1)
        channels_btc = self.norm_1(x_btd)
        return Attention(queries, found.keys, found.values, self.reading, channels_btc=channels_btc)

    def attended(self, x_btd: Tensor, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
        return super().attended(torch.zeros_like(x_btd[:, :1]), attention)

    def write(self, x_btd: Tensor, mixed_bhqk: Tensor) -> Tensor:
        return super().write(torch.zeros_like(x_btd[:, :1]), mixed_bhqk)


class PoolRow(ClassToken):
    """The row that the pool makes; of the tokens that it looks at nothing is read."""

    def __call__(self, values_bt: Tensor) -> Tensor:
        return values_bt[:, 0] * float(values_bt.shape[1] == 1)


class ToyPool(ToyTower):
    """The pool is the one layer; what comes before it is its trunk."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__(model)
        visual, self.read = self._visual, PoolRow()
        pool = block(
            model, visual.pool.layer, visual.after, kind=PoolBlock, last=True, reading=self.read
        )
        pool.query = visual.pool.query
        self.trunk, self.blocks = self.blocks, [pool]

    @property
    def tail(self) -> Tail:
        return Tail(Norm.none(self._model.width), float64(self._visual.head.weight).T)

    def leave(self, x_btd: Tensor) -> Left:
        read_bd = self.read(x_btd)
        one_b = torch.ones_like(read_bd[:, 0])
        return Left(self._visual.head(read_bd), 0 * one_b, one_b)
