"""Taking the maps of a model's units: which outputs are maps, and how they lie in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
class Reader:
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


def reader_of(module: nn.Module, layer: str, output: object, batch: int) -> Reader:
    """How a layer's output becomes maps.

    Raises
    ------
    MapError
        If it does not.
    """
    if not isinstance(output, torch.Tensor):
        raise MapError(f"layer {layer} gives {type(output).__name__}, not one tensor")
    shape = tuple(output.shape)
    if shape[:1] != (batch,):
        raise MapError(f"layer {layer} gives {shape} for {batch} images: parts of images, no maps")
    if output.ndim == 3:
        return Reader("tokens", _tokens(tokens_of(module), layer, shape))
    if output.ndim != 4:
        raise MapError(f"layer {layer} gives {shape}: no positions, so no maps")
    return Reader("last" if _channels_last(module, layer, shape) else "first")


def _tokens(declared: Tokens | None, layer: str, shape: tuple[int, ...]) -> Tokens:
    count = shape[1]
    if declared is None:
        prefix = next((p for p in (0, 1) if round((count - p) ** 0.5) ** 2 == count - p > 0), None)
        if prefix is None:
            raise MapError(
                f"layer {layer} gives {count} tokens, which with or without a class token are no "
                "square, and the model declares no grid: they cannot be laid out as a map"
            )
        side = round((count - prefix) ** 0.5)
        return Tokens((side, side), prefix)
    height, width = declared.grid
    if count != declared.prefix + height * width:
        raise MapError(
            f"layer {layer} gives {count} tokens (output {shape}), and the model declares "
            f"{declared.prefix} + {height} × {width}: they cannot be laid out as a map"
        )
    return declared


def _channels_last(module: nn.Module, layer: str, shape: tuple[int, ...]) -> bool:
    """Whether channels come last: told by the activation's neighbours, else by a square map."""
    parent = module.get_submodule(layer.rpartition(".")[0])
    if type(module.get_submodule(layer)).__name__ in ACTIVATIONS:
        kinds = [type(child) for child in parent.children()]
        if nn.Linear in kinds and nn.Conv2d not in kinds:
            return True
    _, p, q, r = shape
    return p == q != r


def usual_layers(module: nn.Module) -> list[str]:
    """The layers that the paper takes: a ResNet's four stages, else every activation function."""
    stages = [f"layer{i}" for i in range(1, 5)]
    if all(hasattr(module, name) for name in stages):
        return stages
    return [n for n, m in module.named_modules() if type(m).__name__ in ACTIVATIONS]


@contextmanager
def recording(module: nn.Module, readers: dict[str, Reader]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, a pass through the model fills the maps of every layer read."""
    maps: dict[str, torch.Tensor] = {}

    def hook(name: str) -> object:
        def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            maps[name] = readers[name](output)

        return keep

    handles = [
        module.get_submodule(name).register_forward_hook(hook(name))  # type: ignore[arg-type]
        for name in readers
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def probe(
    module: nn.Module, inputs: torch.Tensor, layers: Sequence[str], chosen: bool
) -> tuple[torch.Tensor, dict[str, Reader], dict[str, tuple[int, int, int]]]:
    """Run a model once to learn which layers give maps.

    Parameters
    ----------
    inputs : tensor
        A batch of two.
    layers : sequence of str
    chosen : bool
        The user named them: one that gives no maps is an error, else it is left out.

    Returns
    -------
    output : tensor
        The model's own.
    readers : dict of str to Reader
    shapes : dict of str to (units, height, width)
    """
    seen: dict[str, object] = {}
    calls: Counter[str] = Counter()

    def hook(name: str) -> object:
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            # The shape is what matters; the values may be changed in place later.
            seen[name] = output
            calls[name] += 1

        return note

    handles = [
        module.get_submodule(name).register_forward_hook(hook(name))  # type: ignore[arg-type]
        for name in layers
    ]
    try:
        with torch.inference_mode():
            output = module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    readers: dict[str, Reader] = {}
    shapes: dict[str, tuple[int, int, int]] = {}
    for name in layers:
        try:
            if calls[name] != 1:
                raise MapError(
                    f"layer {name} runs {calls[name]} times in one pass: choose the block around it"
                )
            reader = reader_of(module, name, seen[name], len(inputs))
            _, height, width, units = reader(seen[name]).shape  # type: ignore[arg-type]
            if height * width == 1 and not chosen:
                raise MapError(f"layer {name} has one position")
        except MapError:
            if chosen:
                raise
            continue
        readers[name], shapes[name] = reader, (units, height, width)
    return output, readers, shapes
