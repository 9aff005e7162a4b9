"""Mend a spurious correlation: heads put at their means, or gains that are found, held out.

    facet repair --store out/ --classes birds.txt --groups place --heads 22.12 22.13 23.6
    facet repair --store out/ --classes birds.txt --groups place --property background
    facet repair --store out/ --classes birds.txt --groups place --search

A group is the images that share a class and a value of --groups. Accuracy, on average and of the
worst group, is that of held-out images: half of all, by their keys. With --search gains of all
heads are found on the other half. Beside it stand the published setting, in which all MLPs and all
but the last four attention layers are at their means, too, and five random sets of as many heads
of these layers ("Interpreting the Inner-Workings of Vision Models", Gandelsman 2025, Table 2.3 and
Table A.8). What is found is an edit, a file that other jobs take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.checks import at_place, look, refuse_classes, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place
from pipeline.cluster.machines import Where
from pipeline.heads.choices import parse_heads, refuse_studies
from pipeline.repair.groups import Asked, check_column
from pipeline.texts import load_classes
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.repair import RepairRun
    from storage.metadata import Metadata


@dataclass(frozen=True)
class RepairConfig:
    """Mend a spurious correlation."""

    store: str
    """The store: a local path or an object-store URL."""
    classes: str
    """imagenet, waterbirds, microworld:<attribute> (of some values alone,
    microworld:shape=star,heart), or a text file with one class (or label<TAB>name) a line."""
    groups: str
    """Column of the image table that, with the class, says which group an image is of."""
    heads: tuple[str, ...] = ()
    """Heads that are put at their means, as layer.head, such as 3.0 3.2."""
    property: str | None = None
    """In their place, the heads that carry this label."""
    search: bool = False
    """In their place, gains of all heads that lift the worst group of the training half."""
    label_column: str = "label"
    """Column of the image table that says what an image shows."""
    where: str | None = None
    """Which images are classified, by columns of the image table."""
    means_from: str | None = None
    """Which images the means are taken over; by default all."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: RepairConfig) -> RepairRun:
    """Check what can be told at once, then repair."""
    choose_place(config)
    asked = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.repair import run

    return run(config, asked)


def check(config: RepairConfig, planned: Metadata | None = None) -> Asked:
    """Refuse settings that do not go together, or not with the store."""
    if bool(config.heads) + (config.property is not None) + config.search != 1:
        raise FacetError(
            "say what is edited by one of --heads, --property and --search: heads, those with a "
            "label, or all, with gains that are found"
        )
    tables, meta = look(config.store, planned, texts=True)
    refuse_studies(config.store, meta, ["chosen"])
    parse_heads(config.heads, meta.layers, meta.heads)
    classes = load_classes(config.classes)
    if len(classes.names) < 2:
        raise FacetError(f"--classes {config.classes}: one class, which nothing is mistaken for")
    if tables is not None:
        check_column(tables, config.groups)
    refuse_conditions(tables, where=config.where, means_from=config.means_from)
    refuse_classes(tables, config.where, config.label_column, classes)
    return Asked(config.where, config.label_column, config.groups, classes)


if __name__ == "__main__":
    run_job(main, tyro.cli(RepairConfig, description=__doc__))
