"""Second-order effects of neurons over a set of images: norms, top images, directions.

    facet second-order --store out/ --mlp-layers 8-10

A store that does not exist is made first, with --images, --model and --pretrained. The same
command again goes on where a stopped run ended: coefficients are kept shard by shard; of what is
gathered over images, a kill costs a minute's work and the shards under way. The effects are those
of "Interpreting the Second-Order Effects of Neurons in CLIP" (Gandelsman et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs import extract
from jobs.checks import at_place
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.extraction.spec import refuse_other_model
from pipeline.images.decoding import Decode, decode_of, refuse_other_decode
from pipeline.models import ModelSpec, check_supported
from pipeline.neurons.choices import Keep, check_images, parse_mlp_layers
from storage import urls
from storage.errors import FacetError
from storage.metadata import Metadata
from storage.tables import open_tables
from storage.views import find_metadata

if TYPE_CHECKING:
    from jobs.recipes.second_order import SecondOrderRun


@dataclass(frozen=True)
class SecondOrderConfig:
    """Second-order effects of neurons over a set of images: norms, top images, directions."""

    store: str
    """The store: a local path or an object-store URL. Made first if there is none."""
    images: str | None = None
    """To make a store, or go on with one: where the images are, as in facet extract."""
    model: str | None = None
    """To make a store: the model, as in facet extract."""
    pretrained: str | None = None
    """To make a store: its weights, as in facet extract; for one that was made from a weights
    file, that file, if it is no longer where it was."""
    decode: Decode | None = None
    """To make a store: how pictures are read, as in facet extract (by default exact)."""
    mlp_layers: str = "last:3"
    """MLP layers whose neurons are meant, of all but the last, or of all before an attention pool:
    all, last:3, 8-10, 1,3."""
    keep: Keep = "coefficients"
    """What the store keeps of every image: coefficients of each path, peaks and norms; norms
    alone; or nothing but moments over all images."""
    top_k: int = 100
    """Images of longest effect that a neuron's direction is taken from."""
    store_dtype: Literal["float16", "float32"] | None = None
    """What is kept is rounded to it; by default as the store's other arrays."""
    batch_size: int | None = None
    """Images in one forward pass; by default 32 on CPUs, 256 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs the model."""
    num_actors: Literal["auto"] | int = "auto"
    """Copies of the model at work; auto: one a GPU, or one a CPU while memory lasts."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""
    max_bad: float = 0.01
    """Fraction of the images that may be bad."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""


def main(config: SecondOrderConfig) -> SecondOrderRun:
    """Check all that needs neither model nor images, then go through the phases."""
    choose_place(config)
    check(config)
    if find_metadata(urls.absolute(config.store)) is not None:
        config = at_place(config)
    say_loading()
    from jobs.recipes.second_order import run

    return run(config)


def check(config: SecondOrderConfig, planned: Metadata | None = None) -> None:
    """Refuse what cannot work before a model or an image is touched."""
    refuse_bounds(config, "max_bad", top_k=1, batch_size=1)
    if config.images is not None:
        refuse_unused(config, ["out"], "a store that is not gone on with: leave out --images")
    url = urls.absolute(config.store)
    existing = planned or find_metadata(url)
    if existing is None:
        wanted = {n: getattr(config, n) for n in ("images", "model")}
        if absent := [f"--{name}" for name, value in wanted.items() if value is None]:
            raise FacetError(
                f"there is no store at {url}: give the one that is meant by --store, or, to make "
                f"it, --images and --model ({', '.join(absent)} not given)"
            )
        extract.check(to_extract(config))
        found = check_supported(ModelSpec.of(config.model or "", config.pretrained))
    elif config.keep == "moments":
        refuse_unused(config, ["store_dtype"], "--keep coefficients and norms")
    parse_mlp_layers(config.mlp_layers, found if existing is None else existing)
    if existing is not None:
        refuse_other_decode(url, existing.preprocessing, config.decode)
        refuse_other_model(url, existing, config.model, config.pretrained)
        machines.check_decode(decode_of(existing.preprocessing), config.device)
        if config.images is None and planned is None:
            check_images(open_tables(url), config.max_bad, config.top_k)
    machines.check_device(config.device)


def to_extract(config: SecondOrderConfig) -> extract.ExtractConfig:
    """The extraction that makes the store."""
    return extract.ExtractConfig(
        images=config.images or "",
        model=config.model or "",
        pretrained=config.pretrained,
        store=config.store,
        decode=config.decode or "exact",
        store_dtype=config.store_dtype or "float16",
        batch_size=config.batch_size,
        device=config.device,
        num_actors=config.num_actors,
        workers=config.workers,
        max_bad=config.max_bad,
    )


if __name__ == "__main__":
    run_job(main, tyro.cli(SecondOrderConfig, description=__doc__))
