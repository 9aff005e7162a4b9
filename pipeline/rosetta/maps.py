"""Taking the maps of a model's units: which outputs are maps, and how they lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from storage.errors import FacetError

# Class names, because open_clip and timm have activations of their own.
ACTIVATIONS = frozenset(
    ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "GELU", "GELUTanh", "GeluTanh",
     "QuickGELU", "QuickGELUTanh", "SiLU", "Swish", "Mish", "Hardswish", "HardSwish", "Softplus")
)  # fmt: skip


class MapError(FacetError):
    """A layer's output cannot be taken as maps."""


@dataclass(frozen=True)
class Tokens:
    """A transformer's image tokens.

    Attributes
    ----------
    grid : (int, int)
        Rows and columns of patches.
    prefix : int
        Class and register tokens before them, which are left out.
    """

    grid: tuple[int, int]
    prefix: int


@dataclass(frozen=True)
class MapReader:
    """How the output of one layer becomes maps.

    Attributes
    ----------
    kind : {"first", "last", "tokens"}
        Where the channels of the output are, or that it is a run of tokens.
    tokens : Tokens or None
    """

    kind: str
    tokens: Tokens | None = None

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        """Maps (batch, height, width, units) float32, a copy: the model may go on in place."""
        if self.kind == "first":
            maps = output.permute(0, 2, 3, 1)
        elif self.tokens is None:
            maps = output
        else:
            height, width = self.tokens.grid
            maps = output[:, self.tokens.prefix :].unflatten(1, (height, width))
        return maps.float().clone(memory_format=torch.contiguous_format)


def tokens_of(module: nn.Module) -> Tokens | None:
    """The token grid that a model declares; None where it declares none."""
    for part in (module, getattr(module, "trunk", None)):  # open_clip wraps timm's as a trunk
        grid = getattr(getattr(part, "patch_embed", None), "grid_size", None)
        prefix = getattr(part, "num_prefix_tokens", None)  # hierarchical models have none
        if grid is not None and prefix is not None:
            return Tokens((int(grid[0]), int(grid[1])), int(prefix))
    grid = getattr(module, "grid_size", None)
    if grid is not None:  # open_clip
        return Tokens((int(grid[0]), int(grid[1])), 1)
    side, patch = (getattr(module, name, None) for name in ("image_size", "patch_size"))
    if isinstance(side, int) and isinstance(patch, int):  # torchvision
        return Tokens((side // patch,) * 2, 1)
    return None


def readers_of(module: nn.Module, output: object, batch: int) -> list[MapReader]:
    """How a layer's output may become maps, the likeliest first: a shape alone does not tell.

    Raises
    ------
    MapError
        If it does not.
    """
    if not isinstance(output, torch.Tensor):
        raise MapError(f"gives {type(output).__name__}, not one tensor")
    shape = tuple(output.shape)
    if shape[:1] != (batch,):
        raise MapError(f"gives {shape} for {batch} images: parts of images, no maps")
    if output.ndim == 3:
        return [MapReader("tokens", _tokens(tokens_of(module), shape))]
    if output.ndim != 4:
        raise MapError(f"gives {shape}: no positions, so no maps")
    _, p, q, r = shape
    first, last = MapReader("first"), MapReader("last")
    return [last, first] if p == q != r else [first, last]


def _tokens(declared: Tokens | None, shape: tuple[int, ...]) -> Tokens:
    count = shape[1]
    if declared is None:
        prefix = next((p for p in (0, 1) if round((count - p) ** 0.5) ** 2 == count - p > 0), None)
        if prefix is None:
            raise MapError(
                f"gives {count} tokens, which with or without a class token are no square, and "
                "the model declares no grid: they cannot be laid out as a map"
            )
        side = round((count - prefix) ** 0.5)
        return Tokens((side, side), prefix)
    height, width = declared.grid
    if count == height * width:  # before the class token joins
        return Tokens(declared.grid, 0)
    if count != declared.prefix + height * width:
        raise MapError(
            f"gives {count} tokens (output {shape}), and the model declares "
            f"{declared.prefix} + {height} × {width}: they cannot be laid out as a map"
        )
    return declared


def usual_layers(module: nn.Module) -> list[str]:
    """The layers that the paper takes: a ResNet's four stages, else every activation function."""
    stages = [f"layer{i}" for i in range(1, 5)]
    if all(hasattr(module, name) for name in stages):
        return stages
    return [n for n, m in module.named_modules() if type(m).__name__ in ACTIVATIONS]


@contextmanager
def hooked(
    module: nn.Module, layers: Iterable[str], saw: Callable[[str, Any], None]
) -> Iterator[None]:
    """While open, every output of these layers is told, with the layer's name."""

    def hook(name: str) -> Callable[..., None]:
        def tell(_module: nn.Module, _inputs: object, output: object) -> None:
            saw(name, output)

        return tell

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recording(
    module: nn.Module, readers: dict[str, MapReader]
) -> Iterator[dict[str, torch.Tensor]]:
    """While open, a pass through the model fills the maps of every layer read."""
    maps: dict[str, torch.Tensor] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        maps[name] = readers[name](output)

    with hooked(module, readers, keep):
        yield maps
