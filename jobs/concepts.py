"""What is in a picture, in words: by the neurons that are active on it, by heads, by its embedding.

    facet concepts --store out/ --image 7
    facet concepts --store out/ --image 7 12 --method neurons published heads embedding
    facet concepts --store out/ --picture dog.jpg --mlp-layers 8-10
    facet concepts --store out/ --where "label == 'dog'"

Neurons say what they stand for by the sparse codes of facet omp: of each text the sum, over the
neurons whose effect is longer than on 98 of 100 images, of the text's coefficient times how far the
effect goes along the neuron's direction; and where in the picture that comes from. Of a subset it
is told what its images have more of than all others. After "Interpreting the Second-Order Effects
of Neurons in CLIP" (Gandelsman et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from jobs.checks import at_place, look, refuse_conditions
from jobs.console import run_job, say_loading
from jobs.settings import choose_place, refuse_bounds, refuse_unused
from pipeline.cluster.machines import Where
from pipeline.concepts.choices import OF_NEURONS, Method
from pipeline.extraction.plan import parse_layers
from pipeline.images.find import find_images, read_picture
from pipeline.neurons.choices import parse_mlp_layers
from pipeline.texts import Pool, load_pool
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.concepts import ConceptsRun
    from storage.metadata import Metadata


@dataclass(frozen=True)
class ConceptsConfig:
    """What is in a picture, in words."""

    store: str
    """The store: a local path or an object-store URL."""
    image: tuple[str, ...] = ()
    """Pictures: images of the store, by their keys or numbers."""
    picture: tuple[str, ...] = ()
    """In their place, picture files that the store need not hold."""
    where: str | None = None
    """In their place, a subset, by columns of the image table: which texts its images have more of
    than all other images have, with intervals; and how true concepts are of images, where that is
    known."""
    method: tuple[Method, ...] = ("neurons",)
    """Who says it: neurons that are active, by signed projections; published, by lengths in place
    of projections; heads, by sparse codes of what each wrote, which add up to a code of the image;
    embedding, by a code of the embedding itself whose coefficients are never negative."""
    mlp_layers: str | None = None
    """MLP layers whose neurons are asked: all, last:3, 8-10, 1,3. By default all that facet omp
    has coded."""
    pool: str | None = None
    """Texts that may be said: neurons are asked by their codes over this pool, heads and embedding
    coded over it. By default the codes' own: a text file (one a line), a Parquet file, or general,
    imagenet-classes, common-words:N, microworld."""
    layers: str | None = None
    """For --method heads: layers whose heads are coded: all, last:4, 20-23, 1,3. By default the
    last four."""
    terms: int | None = None
    """Texts of a code, at most: of each neuron's (by default all that it has), each head's (8),
    the embedding's (32; a lasso, so seldom so many)."""
    top: int = 10
    """Concepts of each picture that are kept: so many that are spoken for, and against."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""
    workers: Where = "auto"
    """Where means that are missing are gathered: ray, on a cluster that is joined or started; here,
    in this process; auto: here where no cluster runs and one process is done in a minute, else on
    Ray. A model sees the pictures here."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked for, once it is known that it makes sense.

    Attributes
    ----------
    images : tuple of int
        Numbers of images of the store, each once.
    pictures : dict of str to bytes
        Files by what they are called.
    methods : tuple of Method
        Each once.
    mlp_layers : tuple of int or None
        Of neurons; None: all that are coded.
    layers : tuple of int
        Of heads.
    pool : Pool or None
    """

    images: tuple[int, ...]
    pictures: dict[str, bytes]
    methods: tuple[Method, ...]
    mlp_layers: tuple[int, ...] | None
    layers: tuple[int, ...]
    pool: Pool | None


def main(config: ConceptsConfig) -> ConceptsRun:
    """Check what can be told at once, then say what is in the pictures."""
    choose_place(config)
    asked = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.concepts import run

    return run(config, asked)


def check(config: ConceptsConfig, planned: Metadata | None = None) -> Asked:
    """Refuse what cannot work before any array is read."""
    if sum(map(bool, (config.image, config.picture, config.where))) != 1:
        raise FacetError(
            "give pictures, --image KEY or number, of the store, or --picture FILE; or a subset, "
            "--where"
        )
    refuse_bounds(config, top=1, **({} if config.terms is None else {"terms": 1}))
    methods = tuple(dict.fromkeys(config.method))
    if not methods:
        raise FacetError("--method: name one, or leave it out")
    if not OF_NEURONS & set(methods):
        refuse_unused(config, ["mlp_layers"], "--method neurons or published")
    if "heads" not in methods:
        refuse_unused(config, ["layers"], "--method heads")
    pool = None if config.pool is None else load_pool(config.pool)
    tables, meta = look(config.store, planned, texts=True)
    mlp_layers = None
    if config.mlp_layers is not None:
        mlp_layers = parse_mlp_layers(config.mlp_layers, meta)
    layers = parse_layers(config.layers or f"last:{min(4, meta.layers)}", meta.layers)
    refuse_conditions(tables, where=config.where)
    images = () if tables is None else tuple(dict.fromkeys(find_images(tables, config.image)))
    return Asked(images, _files(config.picture), methods, mlp_layers, layers, pool)


def _files(places: tuple[str, ...]) -> dict[str, bytes]:
    """Picture files by their names; those of one name in several folders by all that was given."""
    names = [place.rpartition("/")[2] for place in dict.fromkeys(places)]
    return {
        place if names.count(name) > 1 else name: read_picture(place)
        for place, name in zip(dict.fromkeys(places), names, strict=True)
    }


if __name__ == "__main__":
    run_job(main, tyro.cli(ConceptsConfig, description=__doc__))
