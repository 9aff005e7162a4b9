"""Latents whose generated maps are those of a target: inversion through matched units.

Gandelsman 2025, section 4.4: for pairs of best buddies (j, k) of a generator G and a model D,

    L_act(z, I) = mean over pairs of Σ_x (G_x^j − mean G^j)(D_x^k − mean D^k) / (std G^j std D^k),

with means and deviations over the data set of the mining, and the sum over positions taken as a
mean, is made large, beside a reconstruction loss and a penalty on z (Eqs. 4.5 to 4.7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from storage.errors import FacetError

from .bilinear import larger
from .edits import Edit
from .models import UnitModel

# Shares of the steps in which the learning rate rises from zero, and falls back to it.
RISE, FALL = 0.05, 0.25

Maps = list[Tensor]


class InversionError(FacetError):
    """Units that cannot guide an inversion."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Pairs of one layer of the generator and one of the guide."""

    layers: tuple[int, int]
    channels: tuple[Tensor, Tensor]
    means: tuple[Tensor, Tensor]
    stds: tuple[Tensor, Tensor]
    size: tuple[int, int]

    def standardised(self, maps: Maps, side: int, edit: Edit | None = None) -> Tensor:
        """(b, pairs, height, width) of one side, at the larger of the two sizes."""
        planes = maps[self.layers[side]][..., self.channels[side]].permute(0, 3, 1, 2)
        if edit is not None:
            planes = edit(planes)
        if planes.shape[-2:] != self.size:
            planes = F.interpolate(planes, self.size, mode="bilinear", align_corners=False)
        mean, std = (v[side][:, None, None] for v in (self.means, self.stds))
        return (planes - mean) / std


class Guidance:
    """Matched units of a generator and another model.

    Parameters
    ----------
    generator, guide : UnitModel
        ``guide`` may be the generator itself, for edits of its own maps.
    pairs : DataFrame
        ``layer_a``, ``unit_a`` of the generator, ``layer_b``, ``unit_b`` of the guide.
    units : DataFrame
        ``model``, ``layer``, ``unit``, ``mean``, ``std`` of every unit (the mining's table).
    """

    def __init__(
        self, generator: UnitModel, guide: UnitModel, pairs: pd.DataFrame, units: pd.DataFrame
    ) -> None:
        if pairs.empty:
            raise InversionError(
                f"{generator.card.name} and {guide.card.name} share no unit: mine more images, or "
                "with more `neighbours`"
            )
        self.pairs = len(pairs)
        moments = units.set_index(["model", "layer", "unit"])[["mean", "std"]]
        models = (generator, guide)
        names = [[layer.name for layer in m.card.layers] for m in models]
        self._groups = []
        for (one, other), rows in pairs.groupby(["layer_a", "layer_b"], sort=True):
            layers = (names[0].index(str(one)), names[1].index(str(other)))
            channels = [torch.tensor(rows[c].to_numpy()) for c in ("unit_a", "unit_b")]
            keys = [
                [(m.card.name, layer, int(u)) for u in c]
                for m, layer, c in zip(models, (one, other), channels, strict=True)
            ]
            found = [torch.tensor(moments.loc[k].to_numpy(), dtype=torch.float32) for k in keys]
            sizes = [m.card.layers[at].size for m, at in zip(models, layers, strict=True)]
            self._groups.append(
                _Group(
                    layers,
                    (channels[0], channels[1]),
                    (found[0][:, 0], found[1][:, 0]),
                    (found[0][:, 1].clamp(min=1e-12), found[1][:, 1].clamp(min=1e-12)),
                    larger(*sizes),
                )
            )

    def targets(self, guide_maps: Maps, edit: Edit | None = None) -> list[Tensor]:
        """Standardised maps of the guide's matched units, edited or as they are."""
        return [group.standardised(guide_maps, 1, edit).detach() for group in self._groups]

    def similarity(self, generator_maps: Maps, targets: list[Tensor]) -> Tensor:
        """L_act of every image, (b,)."""
        total = torch.zeros(len(generator_maps[0]), dtype=generator_maps[0].dtype)
        for group, target in zip(self._groups, targets, strict=True):
            product = group.standardised(generator_maps, 0) * target
            total = total + product.mean((2, 3)).sum(1)
        return total / self.pairs


def prepared(images_bchw: Tensor, model: UnitModel) -> Tensor:
    """Generated pictures in -1 … 1 as a model's input, differentiable."""
    assert model.preprocess is not None  # a generator takes no pictures
    size = model.preprocess.size
    if images_bchw.shape[-2:] != size:
        images_bchw = F.interpolate(images_bchw, size, mode="bilinear", antialias=True)
    mean, std = (
        torch.tensor(v).to(images_bchw)[:, None, None]
        for v in (model.preprocess.mean, model.preprocess.std)
    )
    return ((images_bchw + 1) / 2 - mean) / std


def perceptual_distance(maps: Maps, target_maps: Maps) -> Tensor:
    """Distance of two pictures' maps, (b,): unit vectors over the channels of every position.

    As LPIPS before its learnt weights (Zhang et al. 2018, Eq. 1): the mean over positions of the
    squared difference, summed over layers.
    """
    pairs = zip(maps, target_maps, strict=True)
    terms = [
        (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).square().sum(-1).mean((1, 2))
        for a, b in pairs
    ]
    return torch.stack(terms).sum(0)


def learning_rates(steps: int, peak: float) -> Iterator[float]:
    """From zero up in the first 5% of the steps, by a cosine to zero in the last 25%."""
    for step in range(steps):
        left = (steps - step) / steps
        fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, left / FALL))
        yield peak * fall * min(1.0, (step + 1) / (RISE * steps))


def invert(
    generator: UnitModel,
    loss: Callable[[Tensor, Maps], Tensor],
    start_bz: Tensor,
    *,
    steps: int = 500,
    rate: float = 0.1,
    alpha: float = 1.0,
    report: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Latents that make a loss small, by Adam.

    Parameters
    ----------
    generator : UnitModel
    loss : callable
        Of pictures (b, 3, h, w) in -1 … 1 and the generator's maps; gives (b,).
    start_bz : (b, latent)
    steps, rate :
        Of Adam; the rate rises and falls as ``learning_rates`` says.
    alpha : float
        Weight of the penalty on z, the mean of its squares (Gandelsman 2025, Eq. 4.5, with 0.1).
        Guidance rewards maps without bound, and 1 keeps latents where the generator was trained.
    report : callable
        Called with the steps done.

    Returns
    -------
    (b, latent) float32
    """
    size = generator.card.latent
    if start_bz.ndim != 2 or start_bz.shape[1] != size:
        raise InversionError(
            f"latents have shape {tuple(start_bz.shape)}; {generator.card.name} takes (n, {size})"
        )
    latents = start_bz.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([latents])
    for step, now in enumerate(learning_rates(steps, rate)):
        optimiser.param_groups[0]["lr"] = now
        images, maps = generator.maps(latents)
        total = loss(images, maps) + alpha * latents.square().mean(1)
        optimiser.zero_grad(set_to_none=True)
        total.sum().backward()  # every image has its own latent: the sum keeps them apart
        optimiser.step()
        report(step + 1)
    if not latents.isfinite().all():
        raise InversionError(
            f"latents became NaN or infinite in {steps} steps: take a lower `rate`"
        )
    return latents.detach()
