"""The index of a store: contributions head by head, made for search.

    facet index --store out/
    facet index --store out/ --layers all --blocks 20-24 --embedding

The same command again only adds shards that were extracted since; other layers are added beside
those that are there. It takes 128 bytes an image and head of ViT-L/14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.checks import at_place, look
from jobs.console import run_job, say_loading
from jobs.settings import choose_place
from pipeline.cluster.machines import Where
from pipeline.extraction.plan import parse_layers
from pipeline.search.choices import Space, refuse_parts

if TYPE_CHECKING:
    from storage.metadata import Metadata


@dataclass(frozen=True)
class IndexConfig:
    """The index of a store, made for search."""

    store: str
    """The store: a local path or an object-store URL."""
    layers: str = "last:4"
    """Layers whose heads are indexed: all, last:4, 20-23, 1,3."""
    blocks: str | None = None
    """Blocks, too: 0 is the start, 24 the MLP of layer 23; all, last:4, 20-23, 1,3."""
    embedding: bool = False
    """The embedding, too."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


def main(config: IndexConfig) -> Space:
    """Check what can be told of the store at once, then build."""
    choose_place(config)
    space = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.index import run

    return run(config, space)


def check(config: IndexConfig, planned: Metadata | None = None) -> Space:
    """Refuse what cannot work before any array is read."""
    _, meta = look(config.store, planned)
    layers = parse_layers(config.layers, meta.layers)
    blocks = () if config.blocks is None else parse_layers(config.blocks, meta.layers + 1, "blocks")
    heads = tuple((layer, head) for layer in layers for head in range(meta.heads))
    space = Space(heads, blocks, config.embedding)
    refuse_parts(config.store, meta, space)
    return space


if __name__ == "__main__":
    run_job(main, tyro.cli(IndexConfig, description=__doc__))
