"""Find units that different models share: the same maps for the same images.

    facet rosetta --images photos/ --models timm:resnet50 timm:vit_base_patch16_224.dino \\
        --out shared/

With ``--generator G --seeds 1600`` the images are made by a generator, whose own units are then
compared, too. The same command again goes on where a stopped run ended; more models may be named
later. The matching is that of "Rosetta Neurons: Mining the Common Units in a Model Zoo" (Dravid et
al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.images.decoding import Decode
from pipeline.images.listing import refuse_source
from storage import urls
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.rosetta import RosettaRun


@dataclass(frozen=True)
class RosettaConfig:
    """Find units that different models share: the same maps for the same images."""

    models: tuple[str, ...]
    """family:name[/pretrained][@layers] of timm, open_clip, torchvision, import:module:function;
    or microworld, microworld-cnn, microworld-mae."""
    out: str
    """Where sums and results are or will be: a local path or an object-store URL."""
    images: str | None = None
    """Folder, WebDataset tars, Parquet files, or microworld:n=2000,seed=7,split=test."""
    decode: Decode = "exact"
    """How pictures are read: as Pillow does (exact), faster and nearly so (fast), or JPEGs
    on the GPU (gpu)."""
    generator: str | None = None
    """A generator that makes the images instead, such as microworld-generator."""
    seeds: int = 1600
    """Images that the generator makes: of seeds 0 … N-1."""
    hub: str | None = None
    """The model that matches are merged through; by default the generator, else the first."""
    neighbours: int = 5
    """K: units that match are among each other's K nearest."""
    shard_size: int = 256
    """Images whose sums are kept at once."""
    batch_size: int = 16
    """Images in one forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs the models."""
    num_actors: Literal["auto"] | int = "auto"
    """Copies of the models at work; auto: one a GPU, or one a CPU while memory lasts."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""
    max_bad: float = 0.01
    """Fraction of the images that may be bad before the job stops."""
    limit: int | None = None
    """Use only the first images of the list."""


def main(config: RosettaConfig) -> RosettaRun:
    """Check all that needs no model, then mine."""
    choose_place(config)
    check(config)
    say_loading()
    from jobs.recipes.rosetta import run

    return run(config)


def check(config: RosettaConfig) -> None:
    """Refuse what cannot work before a model is loaded."""
    if (config.images is None) == (config.generator is None):
        raise FacetError("give either --images SOURCE or --generator MODEL (with --seeds N)")
    if config.generator is None:
        refuse_unused(config, ["seeds"], "--generator")
    else:
        refuse_unused(config, ["limit", "decode"], "--images")
    names = [*config.models, *filter(None, [config.generator])]
    if len(names) < 2:
        raise FacetError(
            f"one model alone ({', '.join(names) or 'none'}): name two --models at least, or one "
            "and a --generator"
        )
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise FacetError(f"{', '.join(twice)} is named twice: a model is compared with others")
    refuse_bounds(
        config, "max_bad", neighbours=1, shard_size=2, batch_size=1, seeds=2, num_actors=1
    )
    if config.hub is not None and config.hub not in names:
        raise FacetError(f"--hub {config.hub} is none of the models: {', '.join(names)}")
    if config.images is not None:
        refuse_source(config.images)
    machines.check_device(config.device)
    machines.check_decode(config.decode, config.device)
    urls.check_writable(urls.absolute(config.out), "out")


if __name__ == "__main__":
    run_job(main, tyro.cli(RosettaConfig, description=__doc__))
