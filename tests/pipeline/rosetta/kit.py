"""Maps, cards, toy models and a direct computation for tests of units shared between models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from pipeline.models import Preprocess
from pipeline.rosetta.models import Loaded
from pipeline.rosetta.sums import HalfMaps
from storage.rosetta import Card, UnitLayer

TOYS = "import:tests.pipeline.rosetta.kit"
Maps = list[NDArray[np.float32]]  # one a layer: (images, height, width, units)


def card(name: str, *layers: tuple[int, int, int], latent: int | None = None) -> Card:
    """A card with layers of (units, height, width)."""
    found = tuple(UnitLayer(f"l{i}", *shape) for i, shape in enumerate(layers))
    return Card(name, f"digest of {name}", found, {}, latent)


def random_maps(rng: np.random.Generator, model: Card, images: int) -> Maps:
    """Rectified noise about an offset that differs by unit and drifts from image to image."""
    drift = rng.normal(size=(images, 1, 1, 1))
    return [
        np.maximum(
            rng.normal(size=(images, x.height, x.width, x.units))
            + rng.normal(size=x.units) * 3
            + drift * rng.normal(size=x.units),
            0,
        ).astype(np.float32)
        for x in model.layers
    ]


def half_maps(maps: Maps, images: NDArray[np.int64]) -> HalfMaps:
    return HalfMaps([torch.from_numpy(m[images]) for m in maps])


def direct(a: Maps, b: Maps) -> NDArray[np.float64]:
    """Eq. 4.1-4.2: interpolate each pair of layers to the larger size, correlate in float64."""
    rows = []
    for x in a:
        row = []
        for y in b:
            size = tuple(np.maximum(x.shape[1:3], y.shape[1:3]).tolist())
            wide = []
            for maps in (x, y):
                planes = torch.from_numpy(maps).double().permute(0, 3, 1, 2)
                up = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
                flat = up.permute(1, 0, 2, 3).flatten(1).numpy()
                wide.append(flat - flat.mean(1, keepdims=True))
            with np.errstate(invalid="ignore"):
                norms = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in wide]
            row.append(norms[0] @ norms[1].T)
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


class Painter(nn.Module):
    """A generator of 16-pixel pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(6, 5 * 16)
        self.act1 = nn.ReLU()
        self.up = nn.Conv2d(5, 4, 3, padding=1)
        self.act2 = nn.LeakyReLU(0.2)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.start(z).view(-1, 5, 4, 4))
        x = self.act2(self.up(nn.functional.interpolate(x, scale_factor=4)))
        return self.out(x).tanh()


class Plain(nn.Module):
    """Convolutions for small pictures; the second activation changes its input in place.

    The last has one position.
    """

    def __init__(self, sides: int = 3) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU()
        self.act2 = nn.Hardswish(inplace=True)
        self.conv2, self.act3 = nn.Conv2d(6, 4, sides, stride=2, padding=1), nn.ReLU(inplace=True)
        self.act4 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.act3(self.conv2(self.act2(self.act1(self.conv1(x)))))
        return self.act4(maps.mean((2, 3), keepdim=True)).flatten(1)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def square(size: int) -> Preprocess:
    return Preprocess((size, size), (0.5,) * 3, (0.5,) * 3, "bilinear", "shortest", 0)


def painter() -> Loaded:
    return Loaded(seeded(Painter, 0), None, 6)


def wrong_latent() -> Loaded:
    return Loaded(seeded(Painter, 0), None, 7)


def plain() -> Loaded:
    return Loaded(seeded(Plain, 1), square(16))


def other() -> Loaded:
    """Sees pictures at another size."""
    return Loaded(seeded(partial(Plain, 5), 2), square(24))


def dead() -> Loaded:
    """One of its units is never active."""
    module = seeded(Plain, 3)
    module.conv1.bias.data[2] = -100  # type: ignore[operator, union-attr]
    return Loaded(module, square(16))


def broken() -> Loaded:
    module = seeded(Plain, 1)
    module.conv2.weight.data[:] = torch.nan  # type: ignore[index, union-attr]
    return Loaded(module, square(16))
