"""Are concepts of images true, where the truth is known? Precision at 5 and 10, beside baselines.

``python -m benchmarks.concepts`` takes 4,000 pictures of the embedded world. Of each it goes
through the concepts by falling score; the values that the first 5, and the first 10, name are right
or wrong. Every method stands beside the texts nearest to the whole embedding, beside neurons drawn
at random, as many as are active, and beside texts drawn at random. Then each value of each
attribute is a subset: does what it has surely more of name the value? And so many random subsets:
do any surely have more of anything? Last, what each method takes. Intervals are of 95%, over
images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import tyro
from numpy.typing import NDArray

from benchmarks.clock import seconds
from jobs import extract, omp, second_order
from jobs.steps import reduced
from pipeline.concepts import over, precision
from pipeline.concepts.by_codes import Dictionary, by_embedding, by_heads
from pipeline.concepts.by_neurons import ByNeurons, layer_effects, long_of
from pipeline.concepts.choices import EMBEDDING_TERMS, HEAD_TERMS
from pipeline.concepts.codes import chosen_layers, read_codes
from pipeline.concepts.pools import pool_of_codes
from pipeline.concepts.precision import VALUES, precision_table
from pipeline.concepts.subset import (
    By,
    Question,
    Truth,
    counted,
    merge,
    scores_of,
    stored,
)
from pipeline.texts.encoding import store_model
from storage.store import Store

# What --where would be, where only the truth is looked at.
WHERE = "shape == 'star'"


@dataclass(frozen=True)
class Settings:
    """Concepts of the embedded world against the truth."""

    images: int = 4000
    """Pictures."""
    terms: int = 8
    """Texts of a neuron's code."""
    seed: int = 77
    """Of the pictures."""


class World:
    """A store of the embedded world, whose neurons are coded, and the methods over it."""

    def __init__(self, store: Store) -> None:
        self.store, self.model = store, store_model(store)
        self.pool = pool_of_codes(store, chosen_layers(store)[0].codes)
        assert self.pool is not None  # coded just now
        moments = reduced(store, None, ("heads", "mlps", "embedding"))
        dictionary = Dictionary.of(self.pool.texts, self.pool.embeddings)
        mean_e = moments.array("embedding_mean").values
        self.truth = Truth(self.pool.texts, self.pool.embeddings, mean_e)
        every = range(store.meta.layers)
        self.methods: dict[str, By] = {
            "neurons": self.neurons(),
            "published": replace(self.neurons(), published=True),
            "heads": by_heads(store, dictionary, moments, every, HEAD_TERMS),
            "embedding": by_embedding(dictionary, moments, EMBEDDING_TERMS),
        }

    def neurons(self, layers: Sequence[int] | None = None) -> ByNeurons:
        """By the neurons of some layers, or of all."""
        chosen = chosen_layers(self.store, layers)
        effects = layer_effects(self.store, self.model, chosen)
        return ByNeurons(read_codes(chosen), long_of(self.store, chosen), effects)

    def question(self, methods: dict[str, By], truth: bool = True) -> Question:
        """One over all of the store's images."""
        source = "none" if set(methods) <= {"heads", "embedding"} else "coefficients"
        return Question(self.store.url, WHERE, methods, source, self.truth if truth else None)

    def precision(self, methods: dict[str, By]) -> pd.DataFrame:
        """As ``facet concepts`` keeps it."""
        found = [count for _, count in counted(self.question(methods), self.store, self.shards)]
        measured = merge([count for count in found if count is not None]).precision
        assert measured is not None
        return precision_table(measured)

    @property
    def shards(self) -> list[int]:
        """All are finished."""
        return sorted(self.store.done_shards())

    def scores(self, name: str) -> NDArray[np.float64]:
        """Of all images, (B, M), by a method."""
        methods = {name: self.methods[name]}
        question = self.question(methods)
        return np.concatenate(
            [
                scores_of(methods, batch)[name]
                for shard in self.shards
                for batch in stored(question, self.store, shard)
            ]
        )


def said(row: pd.Series, name: str = "") -> str:
    """A figure in percent, with its interval."""
    low, high = (f"{name}_low", f"{name}_high") if name else ("low", "high")
    value = row[name or "precision"]
    if np.isnan(value):
        return "–"
    return f"{100 * value:.1f} ({100 * row[low]:.1f} to {100 * row[high]:.1f})"


def print_table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    """In Markdown."""
    print(f"\n| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def of_images(table: pd.DataFrame, layers: dict[str, pd.DataFrame]) -> Iterator[Sequence[str]]:
    """A row a series: of all layers' neurons, of each layer's, of the baselines."""
    for name, found in {"": table, **layers}.items():
        for series, rows in found[found["attribute"] == "all"].groupby("series", sort=False):
            if name and series != "neurons":
                continue
            five, ten = (rows[rows["at"] == k].iloc[0] for k in precision.AT)
            yield (
                f"{series}{name}", said(five), f"{five['values']:.1f}", said(ten),
                f"{ten['values']:.1f}", said(five, "more"), f"{five['named'] / five['images']:.1%}",
            )  # fmt: skip


def of_attributes(table: pd.DataFrame) -> Iterator[Sequence[str]]:
    """A row a series, a column an attribute: precision at 5, and of how many images."""
    five = table[table["at"] == precision.AT[0]]
    for series, rows in five.groupby("series", sort=False):
        known = rows.set_index("attribute")
        cells = (
            f"{100 * known.loc[a, 'precision']:.0f} of {known.loc[a, 'named'] / len_(known):.0%}"
            if a in known.index
            else "–"
            for a in precision.CELLS[1:]
        )
        yield str(series), *cells


def len_(known: pd.DataFrame) -> int:
    """Images that were looked at."""
    return int(known["images"].iloc[0])


def of_subsets(world: World, true_bv: NDArray[np.bool_]) -> Iterator[Sequence[str]]:
    """A row a method: of every value's subset, what it has surely more of."""
    for name, by in world.methods.items():
        scores_bm = world.scores(name)
        named_mv = precision.named_values(by.texts)
        at = {text: m for m, text in enumerate(by.texts)}
        sure, first, right, false = [], [], [], []
        rng = np.random.default_rng(0)
        for v in range(len(VALUES)):
            table = over.over_table(over.count(scores_bm, true_bv[:, v]), by.texts, name)
            texts = [at[text] for text in table["text"][table["low_all"] > 0]]
            sure.append(len(texts))
            first.append(bool(texts) and named_mv[texts[0], v])
            naming = [m for m in texts if named_mv[m].any()][:5]
            right += [named_mv[m, v] for m in naming]
            drawn = over.count(scores_bm, rng.permutation(true_bv[:, v]))
            false.append((over.over_table(drawn, by.texts, name)["low_all"] > 0).any())
        yield (
            name, f"{np.mean(sure):.1f}", f"{np.mean(first):.0%}", f"{np.mean(right):.0%}",
            f"{sum(false)} of {len(false)}",
        )  # fmt: skip


def of_time(world: World) -> Iterator[Sequence[str]]:
    """A row a method: images a second of the processor, and what one keeps to be asked."""
    images = world.store.meta.images
    for name, by in world.methods.items():
        question = world.question({name: by}, truth=False)
        took = min(
            seconds(lambda q=question: list(counted(q, world.store, world.shards)))
            for _ in range(3)
        )
        yield name, f"{images / took:,.0f}"


def main(settings: Settings) -> None:
    """Make a store, code its neurons, print four tables."""
    with tempfile.TemporaryDirectory() as folder:
        images = f"microworld:n={settings.images},seed={settings.seed},split=test"
        store = extract.main(
            extract.ExtractConfig(
                images, "microworld", f"{folder}/store", "microworld", workers="here"
            )
        )
        layers = range(store.meta.layers - 1)
        listed = ",".join(map(str, layers))
        second_order.main(
            second_order.SecondOrderConfig(store.url, mlp_layers=listed, workers="here")
        )
        omp.main(
            omp.OmpConfig(store.url, listed, "microworld", terms=settings.terms, workers="here")
        )
        world = World(store)
        table = world.precision(world.methods)
        alone = {
            f", layer {at} alone": world.precision({"neurons": world.neurons([at])})
            for at in layers
        }
        print_table(
            ("by", "at 5, %", "values", "at 10, %", "values", "at 5, less nearest", "of images"),
            of_images(table, alone),
        )
        print_table(
            ("by, at 5: % right of images that it names", *precision.CELLS[1:]),
            of_attributes(table),
        )
        truth = precision.true_values(store.images())
        print_table(
            (
                "by, of 37 subsets", "texts surely more", "first names the value",
                "of the first 5 that name any", "subsets drawn at random with any",
            ),
            of_subsets(world, truth),
        )  # fmt: skip
        print_table(("by", "images a second"), of_time(world))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
