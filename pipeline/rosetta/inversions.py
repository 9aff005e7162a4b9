"""Given pictures sought among generated ones, with and without matched units as a guide.

Compares inversion by a perceptual loss alone with the same plus guidance, and with guidance alone,
and edits the generator's own maps (Gandelsman 2025, 4.4 and Table 4.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from pipeline.images.listing import list_images
from pipeline.images.load import load_rows
from pipeline.telling import SILENT, Teller
from storage.errors import FacetError
from storage.results import Result, finished_results
from storage.rosetta import find_setup, read_cards, require_same

from .edits import Edit, copy_paste, remove, shift, zoom
from .image_figures import psnr, ssim
from .inversion import Guidance, InversionError, invert, perceptual_distance, prepared
from .mined import NotMined
from .models import UnitModel, latents, load_units

PERCEPTUAL, GUIDED, BOTH = "perceptual loss", "guidance alone", "perceptual loss and guidance"
EDITS: dict[str, Edit] = {
    "zoom": zoom,
    "shift right": shift(right=0.25),
    "copy and paste": copy_paste(),
}
RESAMPLES = 2000
# Generated pictures whose maps are edited.
EDITED = 6


@dataclass(frozen=True, eq=False)
class InversionModels:
    """The generator, the guide, the judge, and the units that the first two share.

    Attributes
    ----------
    mined : Result
        That the pairs are of.
    generator, guide, judge : UnitModel
    pairs, units : DataFrame
    """

    mined: Result
    generator: UnitModel
    guide: UnitModel
    judge: UnitModel
    pairs: pd.DataFrame
    units: pd.DataFrame

    @property
    def names(self) -> dict[str, str]:
        """Who is who, by the models' names."""
        roles = {"generator": self.generator, "guide": self.guide, "judge": self.judge}
        return {role: model.card.name for role, model in roles.items()}


@dataclass(frozen=True)
class Search:
    """How latents are sought; see ``inversion.invert``.

    Attributes
    ----------
    steps : int
    rate, alpha : float
    beta : float
        Weight of the guidance beside the perceptual loss.
    """

    steps: int
    rate: float
    alpha: float
    beta: float


@dataclass(frozen=True, eq=False)
class Inversions:
    """What was found.

    Attributes
    ----------
    figures : DataFrame
        See `measure`.
    inverted : dict of str to (n, 3, h, w)
        The targets, the pictures that the first searches start from, and what each loss leads to
        from there.
    edited : dict of str to (n, 3, h, w)
        Generated pictures as they are, and after edits of the maps of all shared units.
    """

    figures: pd.DataFrame
    inverted: dict[str, Tensor]
    edited: dict[str, Tensor]


def load_models(url: str, guide: str | None, judge: str) -> InversionModels:
    """The models, and the units that generator and guide share; refuses what cannot work.

    Parameters
    ----------
    url : str
        Where units shared with a generator were mined.
    guide : str or None
        By default the first by name of the models that share any.
    judge : str
    """
    setup = find_setup(url)
    results = finished_results(url, "rosetta")
    if setup is None or setup.generator is None or not results:
        raise NotMined(url)
    mined = results[-1]
    pairs = _turned(mined.table("buddies").to_pandas(), setup.generator)
    others = list(dict.fromkeys(pairs["model_b"]))
    guide = guide or next(iter(others), "")
    if guide not in others:
        raise InversionError(
            f"`guide` {guide!r} shares no unit with {setup.generator} at {url}; "
            f"these do: {', '.join(others) or 'none'}"
        )
    pairs = pairs[(pairs["model_b"] == guide) & pairs["replicates"]].reset_index(drop=True)
    generator, led = load_units(setup.generator, generator=True), load_units(guide)
    cards = {card.name: card for card in read_cards(url).values()}
    for model in (generator, led):
        require_same(url, cards[model.card.name], model.card)
    units = mined.table("units").to_pandas()
    return InversionModels(mined, generator, led, load_units(judge), pairs, units)


def _turned(buddies: pd.DataFrame, generator: str) -> pd.DataFrame:
    """The generator's pairs, with it as model a."""
    swap = {f"{n}_{a}": f"{n}_{b}" for n in ("model", "layer", "unit") for a, b in ("ab", "ba")}
    other = buddies[buddies["model_b"] == generator].rename(columns=swap)
    both = pd.concat([buddies[buddies["model_a"] == generator], other], ignore_index=True)
    return both[both["model_b"] != generator]


def read_targets(source: str, limit: int, generator: UnitModel) -> Tensor:
    """The pictures, (n, 3, h, w) in -1 … 1 at the generator's size; every one must be readable."""
    with torch.inference_mode():
        output, _ = generator.maps(torch.zeros(1, generator.card.latent or 0))
    side = (output.shape[3], output.shape[2])
    rows = next(iter(list_images(source, limit=limit)))

    def fit(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize(side, Image.Resampling.BICUBIC))

    loaded = load_rows(rows, fit, (side[1], side[0]))
    if bad := [(k, e) for k, e in zip(rows["key"].to_pylist(), loaded.error, strict=True) if e]:
        raise FacetError(f"{len(bad)} pictures cannot be read: {bad[0][0]}: {bad[0][1]}")
    return torch.from_numpy(loaded.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures_digest(pictures: Tensor) -> str:
    """sha256 of pictures, hex."""
    return hashlib.sha256(pictures.contiguous().numpy().tobytes()).hexdigest()


def find_inversions(
    models: InversionModels,
    targets: Tensor,
    search: Search,
    *,
    seed: int = 0,
    starts: int = 1,
    teller: Teller = SILENT,
) -> Inversions:
    """Seek the targets under three losses, measure, and edit.

    Parameters
    ----------
    models : InversionModels
    targets : (n, 3, h, w)
        In -1 … 1.
    search : Search
    seed : int
        First of the seeds that the latents start from.
    starts : int
        Latents that every picture is sought from: where a search ends hangs much on its start.
    teller : Teller
    """
    generator, count = models.generator, len(targets)
    seeds = range(seed, seed + starts * count)
    begun = latents(seeds, generator.card.latent or 0).unflatten(0, (-1, count))
    guidance = Guidance(generator, models.guide, models.pairs, models.units)
    found = {
        loss: torch.stack(
            [_sought(models, guidance, targets, search, start, loss, teller) for start in begun]
        )
        for loss in (PERCEPTUAL, GUIDED, BOTH)
    }
    with torch.no_grad():
        first = generator.maps(begun[0])[0]
    return Inversions(
        measure(models, targets, found),
        {"target": targets, "start": first, **{name: tries[0] for name, tries in found.items()}},
        _edited(models, begun[0][:EDITED], search, teller),
    )


def _sought(
    models: InversionModels,
    guidance: Guidance,
    targets: Tensor,
    search: Search,
    start: Tensor,
    name: str,
    teller: Teller,
) -> Tensor:
    """Pictures of the latents that one loss leads to."""
    guide, generator = models.guide, models.generator
    with torch.no_grad():
        _, wanted = guide.maps(prepared(targets, guide))
        units = guidance.targets(wanted)

    def loss(images: Tensor, maps: list[Tensor]) -> Tensor:
        total = torch.zeros(len(images))
        if name != GUIDED:
            total = total + perceptual_distance(guide.maps(prepared(images, guide))[1], wanted)
        if name != PERCEPTUAL:
            total = total - search.beta * guidance.similarity(maps, units)
        return total

    return _pictures(generator, loss, start, search, name, teller)


def _pictures(
    generator: UnitModel,
    loss: Callable[[Tensor, list[Tensor]], Tensor],
    start: Tensor,
    search: Search,
    name: str,
    teller: Teller,
) -> Tensor:
    """Pictures of the latents that a search ends in."""
    with teller.bar(f"{name}: steps", search.steps) as move:
        found = invert(
            generator, loss, start, steps=search.steps, rate=search.rate, alpha=search.alpha,
            report=move,
        )  # fmt: skip
    with torch.no_grad():
        return generator.maps(found)[0]


def measure(models: InversionModels, targets: Tensor, found: dict[str, Tensor]) -> pd.DataFrame:
    """Figures of every loss: means, and paired changes from the first loss.

    A picture's change is the mean over its starts; the 95% intervals are over pictures, drawn
    again. ``_start_low`` and ``_start_high`` are the least and the largest mean change of one start
    for all pictures, ``_start_std`` the deviation of a picture's change from start to start.

    Parameters
    ----------
    targets : (n, 3, h, w)
    found : dict of str to (starts, n, 3, h, w)
    """
    with torch.no_grad():
        wanted = models.judge.maps(prepared(targets, models.judge))[1]

        def judged(images: Tensor) -> dict[str, np.ndarray]:
            maps = models.judge.maps(prepared(images, models.judge))[1]
            return {
                "psnr": psnr((images + 1) / 2, (targets + 1) / 2).numpy(),
                "ssim": ssim((images + 1) / 2, (targets + 1) / 2).numpy(),
                "perceptual": perceptual_distance(maps, wanted).numpy(),
            }

        figures = {name: [judged(images) for images in tries] for name, tries in found.items()}
    rng, rows = np.random.default_rng(0), []
    drawn = rng.integers(0, len(targets), (RESAMPLES, len(targets)))
    for name, tries in figures.items():
        row: dict[str, object] = {"loss": name}
        for figure in tries[0]:
            values, first = (np.stack([t[figure] for t in f]) for f in (tries, figures[PERCEPTUAL]))
            change = values - first  # (starts, n)
            low, high = np.quantile(change.mean(0)[drawn].mean(1), [0.025, 0.975])
            row |= {
                figure: float(values.mean()),
                f"{figure}_change": float(change.mean()),
                f"{figure}_low": float(low),
                f"{figure}_high": float(high),
                f"{figure}_start_low": float(change.mean(1).min()),
                f"{figure}_start_high": float(change.mean(1).max()),
                f"{figure}_start_std": float(change.std(0).mean()),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _edited(
    models: InversionModels, start: Tensor, search: Search, teller: Teller
) -> dict[str, Tensor]:
    """Generated pictures as they are, and after edits of the maps of all shared units."""
    generator = models.generator
    own = models.pairs[["layer_a", "unit_a"]].drop_duplicates()
    itself = own.assign(layer_b=own["layer_a"], unit_b=own["unit_a"])
    guidance = Guidance(generator, generator, itself, models.units)
    with torch.no_grad():
        images, maps = generator.maps(start)
    # The strongest unit goes: what it stands for should fade, the rest stay as it is.
    strongest = models.pairs.sort_values("correlation", ascending=False).iloc[0]
    one = itself[(itself.layer_a == strongest.layer_a) & (itself.unit_a == strongest.unit_a)]
    only = Guidance(generator, generator, one, models.units)
    plans = {name: (guidance, change) for name, change in EDITS.items()}
    plans[f"unit {strongest.layer_a} {strongest.unit_a} removed"] = (only, remove)
    result = {"generated": images}
    for name, (guide, change) in plans.items():
        wanted = guide.targets(maps, change)

        def loss(
            _images: Tensor,
            maps: list[Tensor],
            guide: Guidance = guide,
            wanted: list[Tensor] = wanted,
        ) -> Tensor:
            return -guide.similarity(maps, wanted)

        result[name] = _pictures(generator, loss, start, search, name, teller)
    return result
