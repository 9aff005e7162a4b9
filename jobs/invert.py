"""Find latents whose generated pictures are given ones, with and without matched units as a guide.

    facet invert --rosetta rosetta/ --images microworld:n=16,seed=9,split=test --out inversions/

The units are those that `facet rosetta --generator …` found the generator to share with another
model. Compares inversion by a perceptual loss alone with the same plus guidance, and with guidance
alone, and edits the generator's own maps (Gandelsman 2025, 4.4 and Table 4.1).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from PIL import Image
from torch import Tensor

from jobs.console import console, progress_bar, run_job, show_table
from jobs.settings import command
from pipeline.images.listing import list_images
from pipeline.images.load import load_rows
from pipeline.pages.html import data_url, section, write_page
from pipeline.rosetta.edits import Edit, copy_paste, remove, shift, zoom
from pipeline.rosetta.image_figures import psnr, ssim
from pipeline.rosetta.inversion import (
    Guidance,
    InversionError,
    invert,
    perceptual_distance,
    prepared,
)
from pipeline.rosetta.models import UnitModel, latents, load_units, pictures
from storage import urls
from storage.errors import FacetError
from storage.results import latest_result
from storage.rosetta import find_setup, read_cards, require_same

PERCEPTUAL, GUIDED, BOTH = "perceptual loss", "guidance alone", "perceptual loss and guidance"
EDITS: dict[str, Edit] = {
    "zoom": zoom,
    "shift right": shift(right=0.25),
    "copy and paste": copy_paste(),
}
RESAMPLES = 2000


@dataclass(frozen=True)
class InvertConfig:
    """Find latents whose generated pictures are given ones, with matched units as a guide."""

    rosetta: str
    """Where `facet rosetta --generator …` wrote."""
    images: str
    """The pictures to invert: any source that facet extract takes."""
    out: Path
    """Folder for the table, the pictures and the page."""
    guide: str | None = None
    """The model whose matched units guide; by default the first by name of those that share any."""
    judge: str = "microworld-mae"
    """The model that measures the perceptual distance at the end; not the one of the loss."""
    limit: int = 16
    """Use only the first images of the list."""
    steps: int = 500
    """Optimiser steps."""
    rate: float = 0.1
    """Peak learning rate."""
    alpha: float = 1.0
    """Weight of the penalty on latents, which keeps pictures such as the generator makes."""
    beta: float = 1.0
    """Weight of the guidance beside the perceptual loss."""
    seed: int = 0
    """First of the seeds that the latents start from."""
    starts: int = 4
    """Latents that every picture is sought from: where a search ends hangs much on its start."""


@dataclass(frozen=True, eq=False)
class Models:
    """The generator, the guide, the judge, and the units that the first two share."""

    generator: UnitModel
    guide: UnitModel
    judge: UnitModel
    pairs: pd.DataFrame
    units: pd.DataFrame


def main(config: InvertConfig) -> pd.DataFrame:
    """Invert the pictures under three losses, measure, edit, show."""
    started = time.monotonic()
    if min(config.steps, config.limit, config.starts) < 1:
        raise FacetError("--steps, --limit and --starts must be at least 1")
    urls.check_writable(str(config.out), "out")
    models = load(config)
    targets = read_targets(config, models.generator)
    count = len(targets)
    seeds = range(config.seed, config.seed + config.starts * count)
    starts = latents(seeds, models.generator.card.latent or 0).unflatten(0, (-1, count))
    guidance = Guidance(models.generator, models.guide, models.pairs, models.units)
    found = {
        name: torch.stack([run(config, models, guidance, targets, start, name) for start in starts])
        for name in (PERCEPTUAL, GUIDED, BOTH)
    }
    table = measure(models, targets, found)
    edited = edit(config, models, starts[0])
    write(config, targets, models, found, table, edited, starts[0])
    show_table(
        "done",
        {
            "pictures": f"{count}, each from {config.starts} starts",
            "shared units": f"{guidance.pairs} of {models.generator.card.name} and "
            f"{models.guide.card.name}",
            **{str(r.loss): f"PSNR {r.psnr:.2f} dB, SSIM {r.ssim:.3f}, distance {r.perceptual:.3f}"
               for r in table.itertuples()},
            "guidance adds": f"{table.psnr_change.iloc[-1]:+.2f} dB "
            f"(95%: {table.psnr_low.iloc[-1]:+.2f} to {table.psnr_high.iloc[-1]:+.2f}), "
            f"SSIM {table.ssim_change.iloc[-1]:+.3f} "
            f"({table.ssim_low.iloc[-1]:+.3f} to {table.ssim_high.iloc[-1]:+.3f})",
            "from start to start": f"{table.psnr_start_low.iloc[-1]:+.2f} to "
            f"{table.psnr_start_high.iloc[-1]:+.2f} dB over all pictures, and a deviation of "
            f"{table.psnr_start_std.iloc[-1]:.2f} dB for one picture",
            "this run": f"{time.monotonic() - started:.0f} s",
        },
    )  # fmt: skip
    console.print(f"{config.out / 'index.html'} shows what was found")
    return table


def load(config: InvertConfig) -> Models:
    """The models, and the units that generator and guide share; refuses what cannot work."""
    url = urls.absolute(config.rosetta)
    setup = find_setup(url)
    if setup is None or setup.generator is None:
        raise FacetError(
            f"no mining with a generator at {url}: run `{mining(config.rosetta)}` first"
        )
    result = latest_result(url, "rosetta")
    buddies = result.table("buddies").to_pandas()
    pairs = _turned(buddies, setup.generator)
    others = list(dict.fromkeys(pairs["model_b"]))
    guide = config.guide or next(iter(others), "")
    if guide not in others:
        raise InversionError(
            f"--guide {guide!r} shares no unit with {setup.generator} at {url}; "
            f"these do: {', '.join(others) or 'none'}"
        )
    pairs = pairs[(pairs["model_b"] == guide) & pairs["replicates"]].reset_index(drop=True)
    generator, led = load_units(setup.generator, generator=True), load_units(guide)
    cards = {card.name: card for card in read_cards(url).values()}
    for model in (generator, led):
        require_same(url, cards[model.card.name], model.card)
    judge = load_units(config.judge)
    return Models(generator, led, judge, pairs, result.table("units").to_pandas())


def mining(url: str) -> str:
    """The command that finds units shared with a generator."""
    return command("rosetta", generator="microworld-generator", models="microworld-cnn", out=url)


def _turned(buddies: pd.DataFrame, generator: str) -> pd.DataFrame:
    """The generator's pairs, with it as model a."""
    swap = {f"{n}_{a}": f"{n}_{b}" for n in ("model", "layer", "unit") for a, b in ("ab", "ba")}
    other = buddies[buddies["model_b"] == generator].rename(columns=swap)
    both = pd.concat([buddies[buddies["model_a"] == generator], other], ignore_index=True)
    return both[both["model_b"] != generator]


def read_targets(config: InvertConfig, generator: UnitModel) -> Tensor:
    """The pictures, (n, 3, h, w) in -1 … 1 at the generator's size; every one must be readable."""
    with torch.inference_mode():
        output, _ = generator.maps(torch.zeros(1, generator.card.latent or 0))
    side = (output.shape[3], output.shape[2])
    rows = next(iter(list_images(config.images, limit=config.limit)))

    def fit(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize(side, Image.Resampling.BICUBIC))

    loaded = load_rows(rows, fit, (side[1], side[0]))
    if bad := [(k, e) for k, e in zip(rows["key"].to_pylist(), loaded.error, strict=True) if e]:
        raise FacetError(f"{len(bad)} pictures cannot be read: {bad[0][0]}: {bad[0][1]}")
    return torch.from_numpy(loaded.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def run(
    config: InvertConfig,
    models: Models,
    guidance: Guidance,
    targets: Tensor,
    start: Tensor,
    name: str,
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
            total = total - config.beta * guidance.similarity(maps, units)
        return total

    with progress_bar(f"{name}: steps", config.steps) as move:
        found = invert(
            generator, loss, start, steps=config.steps, rate=config.rate, alpha=config.alpha,
            report=move,
        )  # fmt: skip
    with torch.no_grad():
        return generator.maps(found)[0]


def measure(models: Models, targets: Tensor, found: dict[str, Tensor]) -> pd.DataFrame:
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


def edit(config: InvertConfig, models: Models, start: Tensor) -> dict[str, Tensor]:
    """Generated pictures as they are, and after edits of the maps of all shared units."""
    generator = models.generator
    chosen = start[:6]
    own = models.pairs[["layer_a", "unit_a"]].drop_duplicates()
    itself = own.assign(layer_b=own["layer_a"], unit_b=own["unit_a"])
    guidance = Guidance(generator, generator, itself, models.units)
    with torch.no_grad():
        images, maps = generator.maps(chosen)
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

        with progress_bar(f"{name}: steps", config.steps) as move:
            found = invert(
                generator, loss, chosen, steps=config.steps, rate=config.rate, alpha=config.alpha,
                report=move,
            )  # fmt: skip
        with torch.no_grad():
            result[name] = generator.maps(found)[0]
    return result


def write(
    config: InvertConfig,
    targets: Tensor,
    models: Models,
    found: dict[str, Tensor],
    table: pd.DataFrame,
    edited: dict[str, Tensor],
    start: Tensor,
) -> None:
    """The table as Parquet, every row of pictures as a PNG, and a page of them."""
    config.out.mkdir(parents=True, exist_ok=True)
    table.to_parquet(config.out / "figures.parquet")
    with torch.no_grad():
        first = models.generator.maps(start)[0]
    rows = {"target": targets, "start": first, **{name: tries[0] for name, tries in found.items()}}
    sections = []
    for title, strips in (("Inversions", rows), ("Edits of the generator's own maps", edited)):
        shown = []
        for name, images in strips.items():
            strip = Image.fromarray(np.concatenate(pictures(images[:8]), axis=1))
            strip = strip.resize((strip.width * 2, strip.height * 2), Image.Resampling.NEAREST)
            strip.save(config.out / f"{name.replace(' ', '-')}.png")
            shown.append((name, data_url(strip)))
        sections += [section(f"{title}: {name}", plot=url) for name, url in shown]
    header = ("loss", "PSNR (dB)", "SSIM", "perceptual distance")
    cells = [
        (r.loss, f"{r.psnr:.2f}", f"{r.ssim:.3f}", f"{r.perceptual:.3f}")
        for r in table.itertuples()
    ]
    sections.insert(0, section("How like the targets", header=header, rows=cells))
    lead = (
        f"{models.generator.card.name} led by units it shares with {models.guide.card.name}; "
        f"{len(targets)} pictures of {config.images}, each sought from {config.starts} starts; "
        "the first is shown, the figures are means over all."
    )
    write_page(config.out / "index.html", "Inversions through shared units", lead, sections)


if __name__ == "__main__":
    run_job(main, tyro.cli(InvertConfig, description=__doc__))
