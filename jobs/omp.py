"""Describe neurons by sparse codes: a few texts, with signs, that sum to what a neuron writes.

    facet omp --store out/ --mlp-layers 9 --pool common-words:10000

Starts from the directions that `facet second-order` found. Text embeddings that are missing are
made first. The codes are those of "Interpreting the Second-Order Effects of Neurons in CLIP"
(Gandelsman et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.checks import at_place, look, refuse_classes
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster.machines import Where
from pipeline.neurons.choices import Method, parse_mlp_layers
from pipeline.texts import Pool, load_classes, load_pool
from pipeline.texts.classes import Classes
from storage.errors import FacetError

if TYPE_CHECKING:
    from pipeline.neurons.coding import FoundCodes
    from storage.metadata import Metadata


@dataclass(frozen=True)
class OmpConfig:
    """Describe neurons by sparse codes: a few texts, with signs, that sum to what they write."""

    store: str
    """The store: a local path or an object-store URL."""
    mlp_layers: str
    """MLP layers whose neurons are described: all, last:3, 8-10, 1,3."""
    pool: str
    """A text file (one a line), a Parquet file, or general, imagenet-classes, common-words:N,
    microworld."""
    terms: int = 128
    """Texts that a neuron's code may have; fits are also reported for 4, 8, 16, … up to these."""
    method: Method = "omp"
    """Orthogonal matching pursuit; the same with coefficients that are never negative; or the
    lasso's path, which takes seconds a neuron where the pool is large."""
    classes: str | None = None
    """Also classify with every neuron's direction replaced by its code: imagenet,
    microworld:<attribute>, or a text file with one class (or label<TAB>name) a line."""
    label_column: str = "label"
    """For --classes: column of the image table that says what an image shows."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: OmpConfig) -> FoundCodes:
    """Check what can be told at once, then code the neurons."""
    choose_place(config)
    pool, classes = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.omp import run

    return run(config, pool, classes)


def check(config: OmpConfig, planned: Metadata | None = None) -> tuple[Pool, Classes | None]:
    """Refuse settings that do not go together, or not with the store; returns the texts."""
    refuse_bounds(config, terms=1)
    if config.classes is None:
        refuse_unused(config, ["label_column"], "--classes")
    pool = load_pool(config.pool)
    if len(pool.texts) < max(2, config.terms):
        raise FacetError(
            f"--pool {pool.source} has {len(pool.texts)} texts, and --terms {config.terms} are to "
            "be picked from them: give a larger pool or fewer --terms"
        )
    classes = None if config.classes is None else load_classes(config.classes)
    tables, meta = look(config.store, planned, texts=True)
    parse_mlp_layers(config.mlp_layers, meta)
    if classes is not None:
        refuse_classes(tables, None, config.label_column, classes)
    return pool, classes


if __name__ == "__main__":
    run_job(main, tyro.cli(OmpConfig, description=__doc__))
