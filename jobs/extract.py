"""Take a model apart over a set of images and keep the parts in a store.

    facet extract --images photos/ --model ViT-B-32-quickgelu --pretrained openai \\
        --store out/

The same command again goes on where a stopped run ended: only shards that are not finished are
done. The parts are those of "Interpreting CLIP's Image Representation via Text-Based Decomposition"
(Gandelsman et al. 2024), Eq. 4 to 6, exact to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.extraction import plan
from pipeline.extraction.components import refuse_absent
from pipeline.extraction.spec import StoreSpec, refuse_other_settings
from pipeline.images.decoding import Decode, refuse_other_decode
from pipeline.images.listing import refuse_source
from pipeline.models import ModelSpec, check_supported
from storage import urls, views
from storage.errors import FacetError
from storage.layout import COMPONENTS, Component

if TYPE_CHECKING:
    from storage.metadata import Metadata
    from storage.store import Store


@dataclass(frozen=True)
class ExtractConfig:
    """Take a model apart over a set of images and keep the parts in a store."""

    images: str
    """Folder, WebDataset tars or Parquet files (globs and {000..009} allowed, local or s3://,
    gs://), gtsegs:PATH (ImageNet-Segmentation's file), or microworld:n=2000,seed=7,split=test."""
    model: str
    """A model's name, such as ViT-B-32/openai, timm:NAME/TAG, hf-hub:ORG/NAME, local-dir:PATH, a
    model config (JSON), or microworld: facet models lists names."""
    store: str
    """Where the store is or will be: a local path or an object-store URL."""
    pretrained: str | None = None
    """Which weights, where the model's name does not say it: a tag, a weights file, or none for
    random weights."""
    components: tuple[Component, ...] = ("heads", "mlps")
    """What to keep: heads, MLPs, what each token wrote; of models that have them, what heads gather
    from registers (sources), and an attention pool's neurons (pool_neurons) or channels."""
    decode: Decode = "exact"
    """How pictures are read: as the model's own library does (exact), faster and nearly
    so (fast), or JPEGs on the GPU (gpu). A store has one."""
    layers: str = "last:4"
    """Layers that tokens are summed over: all, last:4, 20-23, 1,3."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass."""
    store_dtype: Literal["float16", "float32"] = "float16"
    """What heads, mlps and tokens are rounded to."""
    shard_size: int = 1024
    """Images in one shard."""
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
    """Fraction of the images that may be bad before the job stops."""
    limit: int | None = None
    """Use only the first images of the list."""
    seed: int = 0
    """Seed of random weights (--pretrained none)."""


def main(config: ExtractConfig) -> Store:
    """Check all that needs neither model nor images, then extract."""
    choose_place(config)
    check(config)
    if views.find_metadata(urls.absolute(config.store)) is not None:
        from jobs.recipes.extracted import find

        if (store := find(config)) is not None:
            return store
    say_loading()
    from jobs.recipes.extract import run

    return run(config)


def check(config: ExtractConfig) -> None:
    """Refuse what cannot work before a model, an image or a worker is touched."""
    refuse_bounds(config, "max_bad", shard_size=1, batch_size=1, limit=1, num_actors=1)
    if not config.components:
        raise FacetError(f"--components: name at least one of {', '.join(COMPONENTS)}")
    if "tokens" not in config.components:
        refuse_unused(config, ["layers"], "--components tokens")
    spec = spec_of(config)
    if spec.model.pretrained != "none":
        refuse_unused(config, ["seed"], "--pretrained none")
    refuse_source(config.images)
    architecture = check_supported(spec.model)
    refuse_absent(spec.model.model, architecture, config.components)
    if "tokens" in config.components:
        plan.parse_layers(config.layers, architecture.layers)
    url = urls.absolute(config.store)
    if (store := views.source(url)) is not None:
        raise FacetError(f"--store {url} holds what was found of {store}: images go there")
    if (existing := views.find_metadata(url)) is not None:
        refuse_other_decode(url, existing.preprocessing, config.decode)
        refuse_other_settings(url, existing, spec)
    machines.check_device(config.device)
    machines.check_decode(config.decode, config.device)
    urls.check_writable(url)


def spec_of(config: ExtractConfig) -> StoreSpec:
    """What decides the store."""
    return StoreSpec(
        images=config.images,
        model=ModelSpec.of(config.model, config.pretrained, config.seed, config.decode),
        components=config.components,
        layers=config.layers,
        precision=config.precision,
        store_dtype=config.store_dtype,
        shard_size=config.shard_size,
        limit=config.limit,
    )


def plan_store(config: ExtractConfig) -> Metadata:
    """The identity of the store that will be, but for its images and weights."""
    spec = spec_of(config)
    return spec.metadata(check_supported(spec.model), images=0)


if __name__ == "__main__":
    run_job(main, tyro.cli(ExtractConfig, description=__doc__))
