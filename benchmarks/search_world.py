"""Do searches in a head find what the head is about? Precision at 8 where the truth is known.

``python -m benchmarks.search_world`` takes 2,000 pictures of the embedded world. On the first half
it is found what heads are about: by the measured share of an attribute, and by their labels, which
`facet label` gives from its list of properties. The second half is searched: for every picture its
8 nearest others, and for every text of an attribute's values the 8 images that hold most of it.
Right is an image that has the picture's, or the text's, value. Intervals are of 95%, by bootstrap
over queries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro
from numpy.typing import NDArray

from jobs import extract, label
from jobs.steps import indexed, reduced
from pipeline.heads.choices import Head
from pipeline.heads.roles import attribute_shares
from pipeline.labels.found import heads_with
from pipeline.microworld.world import ATTRIBUTES
from pipeline.search.chance import without_own
from pipeline.search.choices import Space
from pipeline.search.coordinates import Coordinates
from pipeline.search.scan import Queries, nearest
from pipeline.search.vectors import image_vectors
from pipeline.texts import load_classes
from pipeline.texts.encoding import TextEncoder
from storage.errors import FacetError
from storage.store import Store

TOP = 8
# Sets of random heads whose precisions are averaged.
RANDOM = 5
COLUMNS = (
    "of a head's variance", "that head", "in it", "in a random one", "heads so labelled",
    "in these", "in as many random ones", "in the whole embedding", "by chance",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Precision at 8 in heads of the embedded world."""

    images: int = 2000
    """Pictures, of which the second half is searched."""
    seed: int = 77
    """Of the pictures."""


@dataclass(frozen=True)
class Asked:
    """Queries about an attribute, each with the value that is right."""

    values: NDArray[np.str_]
    texts: NDArray[np.float32] | None = None
    """Embeddings, (query, embed); None where the queries are the images themselves."""


class World:
    """A store of the embedded world, whose second half is searched."""

    def __init__(self, store: Store) -> None:
        self.store, self.half = store, store.meta.images // 2
        self.own = list(range(self.half, store.meta.images))
        self.chosen = np.arange(store.meta.images) >= self.half
        self.encoder, self.rows = TextEncoder(store), store.images()

    def values(self, attribute: str) -> NDArray[np.str_]:
        """Of all images."""
        return np.array([str(value) for value in self.rows[attribute].to_pylist()])

    def images(self, attribute: str) -> Asked:
        """Every image of the second half."""
        return Asked(self.values(attribute)[self.own])

    def texts(self, attribute: str) -> Asked:
        """Every text of a value."""
        classes = load_classes(f"microworld:{attribute}")
        counts = [len(prompts) for prompts in classes.prompts]
        rows = self.encoder.encode(attribute, classes.flat).embeddings
        return Asked(np.repeat([str(name) for name in classes.names], counts), rows)

    def right(self, asked: Asked, attribute: str, space: Space) -> NDArray[np.float64]:
        """Of every query's nearest, the share with the right value."""
        indexed(self.store, space)
        coordinates, texts = Coordinates.of(self.store, space), asked.texts is not None
        if asked.texts is None:
            vectors = image_vectors(self.store, coordinates, self.own)
        else:
            vectors = coordinates.texts(asked.texts)
        found = nearest(
            self.store, space, Queries(vectors, np.full(len(vectors), texts)),
            metric="cosine", top=TOP + 1, chosen=self.chosen,
        )  # fmt: skip
        own = [None] * len(vectors) if texts else self.own
        rows = without_own(found, own, TOP).rows_qk
        shares: NDArray[np.float64] = (self.values(attribute)[rows] == asked.values[:, None]).mean(
            1
        )
        return shares

    def random(self, asked: Asked, attribute: str, heads: Sequence[Head]) -> NDArray[np.float64]:
        """The mean over sets of as many other heads, by query."""
        sets = [others(self.store, heads, draw) for draw in range(RANDOM)]
        return np.mean([self.right(asked, attribute, Space(some)) for some in sets], axis=0)

    def chance(self, asked: Asked, attribute: str) -> float:
        """The precision of images drawn at random."""
        values = self.values(attribute)[self.half :]
        return float(np.mean([(values == value).mean() for value in asked.values]))


def interval(right: NDArray[np.float64]) -> str:
    """A mean in percent, with its interval."""
    rng = np.random.default_rng(0)
    drawn = right[rng.integers(0, len(right), (2000, len(right)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{100 * right.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def others(store: Store, heads: Sequence[Head], draw: int) -> tuple[Head, ...]:
    """As many heads at random, none of them these."""
    every = [(i, j) for i in range(store.meta.layers) for j in range(store.meta.heads)]
    rest = [at for at in every if at not in heads]
    drawn = np.random.default_rng(draw).choice(len(rest), min(len(heads), len(rest)), replace=False)
    return tuple(rest[i] for i in sorted(drawn))


def main(settings: Settings) -> None:
    """Make a store, choose heads on one half, search the other, print two tables."""
    with tempfile.TemporaryDirectory() as folder:
        world = f"microworld:n={settings.images},seed={settings.seed},split=test"
        store = extract.main(
            extract.ExtractConfig(
                world, "microworld", f"{folder}/store", "microworld", workers="here"
            )
        )
        first = f"index < {settings.images // 2}"
        label.main(label.LabelConfig(store.url, layers="all", where=first, workers="here"))
        reductions = reduced(store, first, ("heads",))
        shares = attribute_shares(store, reductions, tuple(ATTRIBUTES))
        searched = World(store)
        for title, queries in (
            ("the same value, image to image", searched.images),
            ("the text's value, text to image", searched.texts),
        ):
            print(f"\n| {title} | {' | '.join(COLUMNS)} |\n{'|---' * (1 + len(COLUMNS))}|")
            for i, attribute in enumerate(ATTRIBUTES):
                one = divmod(int(shares[..., i].argmax()), store.meta.heads)
                cells = row(searched, queries(attribute), attribute, one)
                print(
                    f"| {attribute} | {shares[(*one, i)]:.0%} | {' | '.join(cells)} |", flush=True
                )


def row(searched: World, asked: Asked, attribute: str, one: Head) -> list[str]:
    """Precision in the head that is most about an attribute, in those labelled so, and beside."""
    try:
        labelled = heads_with(searched.store, attribute)
    except FacetError:  # no head carries it
        labelled = ()
    return [
        "{}.{}".format(*one),
        interval(searched.right(asked, attribute, Space((one,)))),
        interval(searched.random(asked, attribute, (one,))),
        f"{len(labelled)}",
        interval(searched.right(asked, attribute, Space(labelled))) if labelled else "–",
        interval(searched.random(asked, attribute, labelled)) if labelled else "–",
        interval(searched.right(asked, attribute, Space((), embedding=True))),
        f"{100 * searched.chance(asked, attribute):.1f}",
    ]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
