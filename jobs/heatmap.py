"""Where in a picture texts come from: maps over its patches, laid over it as the model saw it.

    facet heatmap --store out/ --image 7 --text "a red star" "a blue moon"
    facet heatmap --store out/ --image 7 --text "a red star" --against "a blue moon"
    facet heatmap --store out/ --picture dog.jpg --text "a dog" --layers all
    facet heatmap --store out/ --image 7 --heads 22.13 --pool general
    facet heatmap --store out/ --image 7 --text "a red star" --edit edit.json

A map is what each patch writes of ⟨embedding, text⟩/‖embedding‖; with all that it leaves out it
sums to that, exactly. With --pool, each head is shown by the texts of facet textspan that it writes
most and least of. The maps are those of "Interpreting CLIP's Image Representation via Text-Based
Decomposition" (Gandelsman et al. 2024), Sections 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.checks import at_place, look
from jobs.console import run_job, say_loading
from jobs.settings import refuse_unused
from pipeline.extraction.plan import parse_layers
from pipeline.heads.choices import Head, parse_heads
from pipeline.heads.edits import Edit, read_edit
from pipeline.heatmaps.choices import layers_of, refuse_reading
from pipeline.images.find import find_image, read_picture
from pipeline.neurons.choices import Convention
from pipeline.texts import Pool, load_pool
from storage.errors import FacetError

if TYPE_CHECKING:
    from jobs.recipes.heatmap import HeatmapRun


@dataclass(frozen=True)
class HeatmapConfig:
    """Where in a picture texts come from."""

    store: str
    """The store: a local path or an object-store URL."""
    image: str | None = None
    """The picture: an image of the store, by its key or its number."""
    picture: str | None = None
    """In its place, a picture file that the store need not hold."""
    text: tuple[str, ...] = ()
    """Texts, a map each."""
    against: str | None = None
    """A text whose map is taken from each of theirs: what speaks for the one rather than the
    other."""
    layers: str | None = None
    """Layers that are summed: all, last:4, 20-23, 1,3. By default those of the store's tokens, or
    last:4."""
    heads: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--head"])] = ()
    """Heads in place of layers, such as 3.0 3.2: their sum for texts, or each for --pool."""
    pool: str | None = None
    """In place of texts, those of facet textspan with this pool that each head writes most and
    least of for this picture."""
    convention: Convention = "centred"
    """Whether biases and the mean are terms of their own, or, as in the published maps, spread
    over all heads and tokens in equal shares."""
    edit: str | None = None
    """The file of an edit: maps of the edited embedding, each head's with its gain."""
    less_classes: str | None = None
    """A pool of class texts whose mean map is taken from each, such as imagenet-classes."""
    pretrained: str | None = None
    """The weights file that the store was made from, if it is no longer where it was."""
    out: str | None = None
    """Where what is found is kept, if not in the store, which is then only read: from then on, give
    this place as --store."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked for, once it is known that it makes sense.

    Attributes
    ----------
    image : int or None
        The number of an image of the store.
    data : bytes
        Of a picture file; empty where it is an image of the store.
    texts : tuple of str
        Trimmed, each once; with `pool`, none.
    against : str or None
    layers : tuple of int
    heads : tuple of (layer, head)
        None: all of the layers.
    pool, less : Pool or None
    edit : Edit or None
    """

    image: int | None
    data: bytes
    texts: tuple[str, ...]
    against: str | None
    layers: tuple[int, ...]
    heads: tuple[Head, ...]
    pool: Pool | None
    less: Pool | None
    edit: Edit | None


def main(config: HeatmapConfig) -> HeatmapRun:
    """Check what can be told at once, then draw the maps."""
    asked = check(config)
    config = at_place(config)
    say_loading()
    from jobs.recipes.heatmap import run

    return run(config, asked)


def check(config: HeatmapConfig) -> Asked:
    """Refuse what cannot work before any array is read."""
    if (config.image is None) == (config.picture is None):
        raise FacetError("give one picture: --image KEY or number, of the store, or --picture FILE")
    texts = tuple(dict.fromkeys(" ".join(text.split()) for text in config.text))
    against = None if config.against is None else " ".join(config.against.split())
    if "" in texts or against == "":
        raise FacetError("a text is empty: say what to look for")
    if config.pool is None and not texts:
        raise FacetError("say what to look for: --text, or --heads with --pool")
    if config.pool is not None:
        refuse_unused(
            config, ["text", "against", "layers", "edit"], "maps of texts, without --pool"
        )
        if not config.heads:
            raise FacetError("--pool shows what single heads write: name them by --heads")
    elif config.heads:
        refuse_unused(config, ["layers"], "maps of all heads of layers, without --heads")
    if against is not None:
        refuse_unused(config, ["less_classes"], "maps without --against, in which it cancels")
        if against in texts:
            raise FacetError(f"--against {against!r} is one of --text: their difference is nothing")
    if config.edit is not None:
        refuse_unused(config, ["convention"], "maps without --edit: gains are of centred parts")
    pool, less = (
        None if name is None else load_pool(name) for name in (config.pool, config.less_classes)
    )
    tables, meta = look(config.store, None, texts=True)
    refuse_reading(meta, ["tokens"], config.convention)
    heads = parse_heads(config.heads, meta.layers, meta.heads)
    layers = parse_layers(config.layers or layers_of(meta), meta.layers)
    if heads:
        layers = tuple(sorted({layer for layer, _ in heads}))
    assert tables is not None  # of a store that is there
    image = None if config.image is None else find_image(tables, config.image)
    data = b"" if config.picture is None else read_picture(config.picture)
    edit = None if config.edit is None else read_edit(config.edit, tables)
    return Asked(image, data, texts, against, layers, heads, pool, less, edit)


if __name__ == "__main__":
    run_job(main, tyro.cli(HeatmapConfig, description=__doc__))
