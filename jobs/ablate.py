"""Zero-shot accuracy when parts of the model are replaced by their means, from the store alone.

    facet ablate --store out/ --classes imagenet --study mlps layers
    facet ablate --store out/ --classes microworld:shape --edit edit.json

The study of neurons runs the model where their coefficients are not kept, that of effects always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.checks import at_place, look, refuse_classes, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster import machines
from pipeline.cluster.machines import Where
from pipeline.heads.choices import Study, parse_heads, refuse_studies
from pipeline.heads.edits import read_edit
from pipeline.neurons.choices import OF_NEURONS, parse_mlp_layers
from pipeline.texts import load_classes
from pipeline.texts.classes import Classes
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.ablate import AblateRun
    from storage.metadata import Metadata

Baseline = Literal["random", "common-words"]
# Settings of what runs the model.
OF_MODEL = ("batch_size", "device", "num_actors")
STUDIES: tuple[Study, ...] = ("mlps", "layers", "heads")


@dataclass(frozen=True)
class AblateConfig:
    """Zero-shot accuracy when parts of the model are replaced by their means."""

    store: str
    """The store: a local path or an object-store URL."""
    classes: str
    """imagenet, waterbirds, microworld:<attribute> (of some values alone,
    microworld:shape=star,heart), or a text file with one class (or label<TAB>name) a line."""
    study: tuple[Study, ...] = STUDIES
    """What is ablated: all MLPs; attention layers, accumulated and alone; single heads; what
    heads write from the class token, in the layers whose tokens the store keeps; all but TextSpan's
    first texts; --heads; the parts of --edit, as far as it says; the second-order effects of the
    neurons of --mlp-layers; or, to compare, their first-order, indirect and second-order
    effects."""
    label_column: str = "label"
    """Column of the image table that says what an image shows."""
    where: str | None = None
    """Which images are classified, by columns of the image table."""
    reference: str | None = None
    """Which images the means are taken over; by default all."""
    heads: tuple[str, ...] = ()
    """For --study chosen: heads as layer.head, such as 3.0 3.2."""
    edit: tuple[str, ...] = ()
    """Files of edits: accuracy with each of them applied; of no other study unless --study names
    some."""
    pool: str | None = None
    """For --study textspan: the pool that describes the heads, as in facet textspan."""
    layers: str = "last:4"
    """For --study textspan: layers whose heads are described; all else is replaced by means."""
    texts_per_head: tuple[int, ...] = (10, 20, 30, 40, 50, 60)
    """For --study textspan: how many texts a head keeps."""
    baselines: tuple[Baseline, ...] = ("random", "common-words")
    """For --study textspan: pools of the same size to compare with."""
    mlp_layers: str = "last:3"
    """For --study neurons, for which facet second-order was run, and effects: all, last:3, 8-10,
    1,3."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    batch_size: int | None = None
    """Where the model is run: images in one forward pass; by default 32 on CPUs, 256 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What runs the model."""
    num_actors: Literal["auto"] | int = "auto"
    """Copies of the model at work; auto: one a GPU, or one a CPU while memory lasts."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""

    def __post_init__(self) -> None:
        if self.edit and self.study == STUDIES:
            object.__setattr__(self, "study", ("edits",))


def main(config: AblateConfig) -> AblateRun:
    """Check what can be told at once, then classify with every ablation."""
    choose_place(config)
    classes = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.ablate import run

    return run(config, classes)


def check(config: AblateConfig, planned: Metadata | None = None) -> Classes:
    """Refuse settings that do not go together, or not with the store; returns the classes."""
    if not config.study:
        raise FacetError("--study: name at least one study")
    if "textspan" in config.study:
        if config.pool is None:
            raise FacetError("--study textspan needs --pool: which texts may describe the heads")
        if not config.texts_per_head or min(config.texts_per_head) < 1:
            raise FacetError(f"--texts-per-head {config.texts_per_head}: give numbers from 1")
    else:
        of_textspan = ["pool", "layers", "texts_per_head", "baselines"]
        refuse_unused(config, of_textspan, "--study textspan")
    if not OF_NEURONS & set(config.study):
        refuse_unused(config, ["mlp_layers", *OF_MODEL], "--study neurons and effects")
    refuse_bounds(config, batch_size=1)
    machines.check_device(config.device)
    if ("chosen" in config.study) != bool(config.heads):
        raise FacetError("--study chosen and --heads go together: which heads are replaced")
    if ("edits" in config.study) != bool(config.edit):
        raise FacetError("--study edits and --edit go together: which files of edits are applied")
    if config.study == ("edits",):
        refuse_unused(config, ["reference"], "studies that replace parts by their means")
    tables, meta = look(config.store, planned, texts=True)
    refuse_studies(config.store, meta, config.study)
    if OF_NEURONS & set(config.study):
        parse_mlp_layers(config.mlp_layers, meta)
    parse_heads(config.heads, meta.layers, meta.heads)
    if tables is not None:  # of a run, an edit may still be to be made
        for url in config.edit:
            read_edit(url, tables)
    classes = load_classes(config.classes)
    refuse_conditions(tables, where=config.where, reference=config.reference)
    refuse_classes(tables, config.where, config.label_column, classes)
    return classes


if __name__ == "__main__":
    run_job(main, tyro.cli(AblateConfig, description=__doc__))
