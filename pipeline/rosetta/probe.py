"""Learning from one pass which layers of a model give maps, and whether they lie where they should.

A shape does not tell whether positions of a layer's output are those of the picture: tokens may be
re-ordered, cut into windows, or no positions at all. So a picture of noise is changed in the middle
of each of its quarters in turn, and the change must show in that quarter of the maps. A generator
is asked the other way round: what a quarter of its picture hangs on must lie in that quarter of
its maps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from storage.errors import NotFinite

from .maps import MapError, MapReader, hooked, readers_of

# How many times more a change must show in its own quarter than in another: the geometric mean over
# the two of them. Maps that lie elsewhere stay within 1.5% of 1, by the noise of the probe.
MARGIN = 1.03
# The same for a reading of the channels that the shape does not suggest.
SURE = 1.5
# What is added to the changed part of a picture, in standard deviations.
STEP = 3.0
# Changes below this share of the largest count as this: most layers see nothing far away.
FLOOR = 1e-3
# The middle of each half, in eighths of a side.
MIDDLES = ((1, 3), (5, 7))

ELSEWHERE = (
    "is not where the picture is: a change in one quarter of the picture does not show most in "
    "that quarter of its maps"
)


@dataclass(frozen=True, eq=False)
class Probed:
    """What a pass showed.

    Attributes
    ----------
    output : tensor
        The model's own.
    readers : dict of str to MapReader
        How each layer's output becomes maps.
    shapes : dict of str to (units, height, width)
    left_out : dict of str to str
        Layers that give no maps, and why.
    """

    output: Tensor
    readers: dict[str, MapReader]
    shapes: dict[str, tuple[int, int, int]]
    left_out: dict[str, str]


def probe_pictures(
    module: nn.Module, noise: Tensor, layers: Sequence[str], *, chosen: bool
) -> Probed:
    """Probe a model that takes pictures.

    Parameters
    ----------
    noise : (n, 3, height, width)
    layers : sequence of str
    chosen : bool
        The user named them: one that gives no maps is an error, else it is left out.

    Raises
    ------
    MapError
        If a chosen layer gives no maps, or maps that are not where the picture is.
    NotFinite
    """
    pictures = noise.repeat_interleave(5, 0)
    for place, (top, bottom, left, right) in enumerate(_middles(*noise.shape[2:]), start=1):
        pictures[place::5, :, top:bottom, left:right] += STEP
    found: dict[str, _Seen] = {}

    def keep(name: str, output: object) -> None:
        # At once: the model may change the values in place later.
        found[name] = _seen(module, name, output, len(pictures), chosen, _differences)

    with torch.inference_mode(), _hooks(module, layers, keep) as calls:
        output = module(pictures)
    return _sorted(output, layers, found, calls, chosen)


def probe_generator(
    module: nn.Module, noise: Tensor, layers: Sequence[str], *, chosen: bool
) -> Probed:
    """Probe a generator; one without gradients is believed.

    Parameters
    ----------
    noise : (n, latent)
    layers, chosen
        As ``probe_pictures``.
    """
    latents = noise.repeat_interleave(4, 0).requires_grad_(True)
    outputs: dict[str, object] = {}
    with torch.enable_grad(), _hooks(module, layers, outputs.__setitem__) as calls:
        output = module(latents)
    tensors = {n: t for n, t in outputs.items() if isinstance(t, Tensor) and t.requires_grad}
    gradients: dict[str, Tensor | None] = {}
    if output.ndim == 4 and output.requires_grad and tensors:
        parts = [
            output[place::4, :, top:bottom, left:right].square().sum()
            for place, (top, bottom, left, right) in enumerate(_middles(*output.shape[2:]))
        ]
        given = torch.autograd.grad(
            torch.stack(parts).sum(), [*tensors.values()], allow_unused=True
        )
        gradients = dict(zip(tensors, given, strict=True))
    found = {}
    for name, value in outputs.items():
        gradient = gradients.get(name)

        def changes(
            reader: MapReader, _output: Tensor, gradient: Tensor | None = gradient
        ) -> Tensor | None:
            return (
                None if gradient is None else reader(gradient).abs().unflatten(0, (-1, 4)).mean(0)
            )

        found[name] = _seen(module, name, value, len(latents), chosen, changes)
    return _sorted(output.detach(), layers, found, calls, chosen)


_Seen = tuple[MapReader, tuple[int, int, int]] | MapError


def _middles(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left, right of the middle of each quarter: the upper ones first."""

    def pixels(side: int) -> list[tuple[int, int]]:
        return [(a * side // 8, max(b * side // 8, a * side // 8 + 1)) for a, b in MIDDLES]

    return [(*rows, *columns) for rows in pixels(height) for columns in pixels(width)]


@contextmanager
def _hooks(
    module: nn.Module, layers: Sequence[str], keep: Callable[[str, object], None]
) -> Iterator[Counter[str]]:
    """While open, every layer's first output is kept and its calls are counted."""
    calls: Counter[str] = Counter()

    def note(name: str, output: object) -> None:
        calls[name] += 1
        if calls[name] == 1:
            keep(name, output)

    with hooked(module, layers, note):
        yield calls


def _differences(reader: MapReader, output: Tensor) -> Tensor:
    maps = reader(output).unflatten(0, (-1, 5))
    return (maps[:, 1:] - maps[:, :1]).abs().mean(0)


def _seen(
    module: nn.Module,
    name: str,
    output: object,
    batch: int,
    chosen: bool,
    changes: Callable[[MapReader, Tensor], Tensor | None],
) -> _Seen:
    """The reading of an output whose maps lie right, and their shape; or why there is none."""
    try:
        readers = readers_of(module, output, batch)
    except MapError as error:
        return error
    assert isinstance(output, Tensor)  # readers_of sees to it
    if not output.isfinite().all():
        raise NotFinite(f"layer {name} gives values that are not finite, for noise")
    for reader, margin in zip(readers, (MARGIN, SURE), strict=False):
        _, height, width, units = reader(output).shape
        if height * width == 1 and not chosen:
            return MapError("has one position")
        moved = changes(reader, output)
        if moved is None or placed(moved) > margin:
            return reader, (units, height, width)
    return MapError(ELSEWHERE)


def _sorted(
    output: Tensor,
    layers: Sequence[str],
    found: dict[str, _Seen],
    calls: Counter[str],
    chosen: bool,
) -> Probed:
    result = Probed(output, {}, {}, {})
    for name in layers:
        seen = found.get(name)
        if calls[name] != 1 or seen is None:
            seen = MapError(f"runs {calls[name]} times in one pass: choose the block around it")
        if not isinstance(seen, MapError):
            result.readers[name], result.shapes[name] = seen
        elif chosen:
            raise MapError(f"layer {name} {seen}")
        else:
            result.left_out[name] = str(seen)
    return result


# -- places --------------------------------------------------------------------------------


def placed(changes_khwu: Tensor) -> float:
    """How many times more maps change where the picture does than elsewhere, at the worst place.

    Every unit counts alike, as in a correlation. That one picture changes more than another, or one
    place at every change, says nothing: each two places are compared crosswise. Maps that do not
    change, or have one position, are nowhere wrong: infinite.

    Parameters
    ----------
    changes_khwu : (4, height, width, units)
        Sizes of the changes for a change at the top left, top right, bottom left, bottom right.
    """
    sizes = changes_khwu.square().mean((0, 1, 2)).sqrt()
    moving = sizes > 0
    if not moving.any():
        return math.inf
    shown = (changes_khwu[..., moving] / sizes[moving]).mean(-1, dtype=torch.float64)
    table = _by_quarters(shown)
    logs = table.clamp(min=FLOOR * float(table.max())).log().tolist()
    seen = [place for place, row in enumerate(table) if row.any()]
    crosswise = [
        (logs[i][i] + logs[j][j] - logs[i][j] - logs[j][i]) / 2 for i, j in combinations(seen, 2)
    ]
    return math.exp(min(crosswise)) if crosswise else math.inf


def _by_quarters(shown_khw: Tensor) -> Tensor:
    """Mean change in every quarter (columns) for every quarter's change (rows).

    Maps of one row or one column have halves in their place, and those of one position no parts.
    """
    pictures = shown_khw.unflatten(0, (2, 2))
    halves: list[list[slice]] = []
    for axis, side in enumerate(shown_khw.shape[1:]):
        if side == 1:
            pictures = pictures.mean(axis, keepdim=True)
            halves.append([slice(None)])
        else:  # a middle row or column is in neither half
            halves.append([slice(side // 2), slice(side - side // 2, None)])
    parts = [pictures[..., y, x].mean((2, 3)).flatten() for y in halves[0] for x in halves[1]]
    return torch.stack(parts, 1)
