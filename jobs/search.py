"""Which images are most alike in what some heads write, or hold most of a text there.

    facet search --store out/ --image 7 --heads 22.1
    facet search --store out/ --picture dog.jpg --property colours
    facet search --store out/ --text "a red thing" "snow" --layer 23
    facet search --store out/ --queries queries.txt --heads 22.1 23.4 --random
    facet search --store out/ --image 7 --edit edit.json
    facet search --store out/ --image 7 --heads 22.1 --approximate

Images are compared by what the heads wrote of them, less its mean over the images; several heads
stand side by side. What the index lacks is made first. An image is never found as its own query.
This is the search of "Interpreting CLIP's Image Representation via Text-Based Decomposition"
(Gandelsman et al. 2024), Figure 5, over all images in one scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.checks import at_place, look, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster.machines import Where
from pipeline.extraction.plan import parse_layers
from pipeline.heads.choices import Head, parse_heads
from pipeline.heads.edits import Edit, read_edit
from pipeline.images.find import find_images, read_picture
from pipeline.search.choices import Metric, Space, faiss_or_refuse, refuse_parts
from pipeline.search.queries import Query, given, read_queries, tidied
from pipeline.texts.towers import refuse_store_without_texts
from storage import urls
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.search import SearchRun


@dataclass(frozen=True)
class SearchConfig:
    """Which images are most alike in what some heads write."""

    store: str
    """The store: a local path or an object-store URL."""
    image: tuple[str, ...] = ()
    """Images of the store to search for, by key or number."""
    picture: tuple[str, ...] = ()
    """Picture files that the store need not hold."""
    text: tuple[str, ...] = ()
    """Texts."""
    queries: str | None = None
    """Many at once, from a file: image, picture or text and, after a tab, which, a line each; or
    Parquet with the columns kind and query."""
    heads: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--head"])] = ()
    """Heads to compare images in, such as 22.1 23.4; by default their whole embeddings."""
    property: str | None = None
    """In their place, the heads that carry this label of facet label."""
    layer: int | None = None
    """In their place, all heads of a layer."""
    blocks: str | None = None
    """Blocks to compare images in, too: 0 is the start, 24 the MLP of layer 23; all, last:4,
    20-23, 1,3."""
    edit: str | None = None
    """The file of an edit: images are compared in their whole edited embeddings, which takes a scan
    of the store itself."""
    metric: Metric = "cosine"
    """What images are compared by: the cosine, or the inner product."""
    centred: bool = True
    """Whether the mean over all images is taken off first."""
    top: int = 10
    """Images to find for each query."""
    where: str | None = None
    """Which images may be found, by columns of the image table."""
    random: bool = False
    """Whether to find, for comparison, as many images at random, and what is nearest in as many
    other heads drawn at random, of the same layers where these have enough."""
    approximate: bool = False
    """Whether to look only where the nearest images most likely are, by lists that are made once:
    for sets that a scan takes too long over. What share of the nearest is found so is measured
    against a scan, and told. Takes a library, the extra ann, and a place on this machine's disk."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where work is done: ray, on a cluster that is joined or started; here, in this process; auto:
    here where no cluster runs and one process is done in a minute, else on Ray."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked for, once it is known that it makes sense.

    Attributes
    ----------
    queries : tuple of Query
    images : dict of Query to int
        Numbers of those that are images of the store.
    pictures : dict of Query to bytes
        Of those that are files.
    space : Space
        Without the heads of a property, which take a result to know.
    edit : Edit or None
        Of the embedding.
    """

    queries: tuple[Query, ...]
    images: dict[Query, int]
    pictures: dict[Query, bytes]
    space: Space
    edit: Edit | None


def main(config: SearchConfig) -> SearchRun:
    """Check what can be told at once, then search."""
    choose_place(config)
    asked = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.search import run

    return run(config, asked)


def check(config: SearchConfig) -> Asked:
    """Refuse what cannot work before any array is read."""
    refuse_bounds(config, top=1)
    if config.heads:
        refuse_unused(config, ["property", "layer"], "searches without --heads")
    if config.property is not None:
        refuse_unused(config, ["layer"], "searches without --property")
    if config.edit is not None:
        parts = ["heads", "property", "layer", "blocks", "random"]
        refuse_unused(config, parts, "searches without --edit, which is of whole embeddings")
    if config.approximate:
        refuse_approximate(config)
    tables, meta = look(config.store, None)
    assert tables is not None  # of a store that is there
    listed = [] if config.queries is None else read_queries(config.queries)
    queries = tidied([*given(config.image, config.picture, config.text), *listed])
    if any(query.kind == "text" for query in queries):
        refuse_store_without_texts(config.store, meta)
    heads = heads_of(config, meta.layers, meta.heads)
    blocks: tuple[int, ...] = ()
    if config.blocks is not None:
        blocks = parse_layers(config.blocks, meta.layers + 1, "blocks")
    whole = not (heads or blocks) and config.property is None
    space = Space(heads, blocks, embedding=whole)
    refuse_parts(config.store, meta, space)
    refuse_conditions(tables, where=config.where)
    of_store = [query for query in queries if query.kind == "image"]
    numbers = find_images(tables, [query.asked for query in of_store]) if of_store else []
    images = dict(zip(of_store, numbers, strict=True))
    pictures = {q: read_picture(q.asked) for q in queries if q.kind == "picture"}
    edit = None
    if config.edit is not None:
        edit = read_edit(config.edit, tables)
        refuse_parts(config.store, meta, Space(((0, 0),), (0,)))  # all that an edit may take from
    return Asked(queries, images, pictures, space, edit)


def heads_of(config: SearchConfig, layers: int, heads: int) -> tuple[Head, ...]:
    """The heads that are named, of a model that has so many layers and heads."""
    if config.layer is None:
        return parse_heads(config.heads, layers, heads)
    if not 0 <= config.layer < layers:
        raise FacetError(f"--layer {config.layer}: the model's layers are 0-{layers - 1}")
    return tuple((config.layer, head) for head in range(heads))


def refuse_approximate(config: SearchConfig) -> None:
    """Refuse what an approximate search cannot do."""
    refuse_unused(config, ["where", "random", "edit"], "exact searches, without --approximate")
    place = config.out or config.store
    if not urls.is_local(place):
        raise FacetError(
            f"--approximate reads its lists from this machine's disk, and {place} is not on it: "
            "give --out a local folder"
        )
    faiss_or_refuse()


if __name__ == "__main__":
    run_job(main, tyro.cli(SearchConfig, description=__doc__))
