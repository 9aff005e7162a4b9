"""Do cues of second-order effects make pictures that fool the model, more than other cues do?

``python -m benchmarks.adversarial`` takes the embedded world, where the renderer draws what a
description names and so knows that the drawn class is there. By default it draws every shape,
has it taken for the next one of the list, and the pair of the planted correlations the other way
round, too: nothing is chosen by its outcome. Of each pair it prints, like Table 3.3 of Gandelsman
2025, how many of 100 pictures fool the model by each source of cues (mean and standard deviation
over repeats); then the share over all repeats with its interval of 95%, and by how much that of
second-order effects is above the others'; and over all pairs how often it surely is. Last, what a
second thing beside the drawn one does, the first cues of each pair, and what a picture takes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import process_time
from typing import get_args

import numpy as np
import pandas as pd
import tyro

from benchmarks.concepts import print_table
from jobs import adversarial, omp, second_order
from pipeline.adversarial.answers import Adversarial, said
from pipeline.microworld.words import microworld_values
from pipeline.microworld.world import SHAPES

NEXT = tuple(f"{a} {b}" for a, b in zip(SHAPES, SHAPES[1:] + SHAPES[:1], strict=True))
EVERY = tuple(f"{a} {b}" for a, b in itertools.permutations(SHAPES, 2))


@dataclass(frozen=True)
class Settings:
    """Pictures of the embedded world that are to fool its model."""

    pairs: tuple[str, ...] = (*NEXT, "heart star")
    """Drawn class and target, with a blank between; all: each with every other."""
    images: int = 4000
    """Pictures of the store whose neurons are coded."""
    terms: int = 8
    """Texts of a neuron's code."""
    pool: str = "microworld"
    """Of the codes."""
    sources: tuple[adversarial.Mined, ...] = get_args(adversarial.Mined)
    """Where cues are from; indirect effects pass images through the model once a neuron."""
    repeats: int = 3
    """Experiments, of 100 pictures each."""
    seed: int = 5
    """Of the store's pictures."""
    store: str | None = None
    """Where the store is, or is to be; by default it is made for the while."""


def published(pair: str, found: Adversarial) -> Iterator[str]:
    """A row of Table 3.3."""
    yield pair.replace(" ", " → ")
    for _, row in found.table.iterrows():
        yield f"{row['fooled']:.1f} (±{row['deviation']:.1f})"


def shares(pair: str, found: Adversarial) -> Iterator[str]:
    """The share of second-order effects, and the others' with what is above them."""
    yield pair.replace(" ", " → ")
    for _, row in found.table.iterrows():
        share = " to ".join(f"{100 * row[name]:.1f}" for name in ("low", "high"))
        told = f"{100 * row['share']:.1f} ({share})"
        if np.isfinite(row["less"]):
            ends = " to ".join(f"{100 * row[name]:+.1f}" for name in ("less_low", "less_high"))
            told += f"; {100 * row['less']:+.1f} ({ends})"
        yield told.replace("-", "−")


def outcome(tables: pd.DataFrame) -> Iterator[Sequence[str]]:
    """A row a source: over all pairs, and how often second-order effects are surely apart."""
    for source, rows in tables.groupby("source", sort=False):
        above, below = (rows["less_low"] > 0).sum(), (rows["less_high"] < 0).sum()
        told = (f"{above} of {len(rows)}", f"{below} of {len(rows)}")
        yield said(str(source)), f"{rows['fooled'].mean():.1f}", *(
            ("–", "–") if rows["less"].isna().all() else told
        )  # fmt: skip


def company(found: Sequence[Adversarial]) -> Iterator[Sequence[str]]:
    """A row a source: how many of 100 pictures fool with a second thing, and without."""
    judged = pd.concat([of.judged.merge(of.pictures[["file", "text"]], on="file") for of in found])
    named = [len({v for a, v in microworld_values(t) if a == "shape"}) for t in judged["text"]]
    judged = judged.assign(second=np.array(named) > 1, fooled=judged["outcome"] == "fooled")
    for source, rows in judged.groupby("source", sort=False):
        yield said(str(source)), *(
            f"{100 * of['fooled'].mean():.1f} of {len(of):,}" if len(of) else "–"
            for of in (rows[rows["second"]], rows[~rows["second"]])
        )  # fmt: skip


def first_cues(found: Adversarial, most: int = 6) -> str:
    """Of second-order effects."""
    rows = found.cues[(found.cues["source"] == "second-order") & found.cues["used"]]
    return ", ".join(rows.sort_values("rank")["text"][:most])


def coded_store(settings: Settings, place: str) -> None:
    """A store whose neurons have effects and codes."""
    second_order.main(
        second_order.SecondOrderConfig(
            place,
            f"microworld:n={settings.images},seed={settings.seed},split=test",
            "microworld",
            "microworld",
            mlp_layers="all",
            workers="here",
        )
    )
    omp.main(omp.OmpConfig(place, "all", settings.pool, settings.terms, workers="here"))


def main(settings: Settings) -> None:
    """Go through the pairs; print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        place = settings.store or f"{folder}/store"
        coded_store(settings, place)
        found: dict[str, Adversarial] = {}
        took: list[float] = []
        for pair in EVERY if settings.pairs == ("all",) else settings.pairs:
            drawn, target = pair.split()
            began = process_time()
            found[pair] = adversarial.main(
                adversarial.AdversarialConfig(
                    place,
                    drawn,
                    target,
                    sources=settings.sources,
                    repeats=settings.repeats,
                    workers="here",
                )
            ).found
            took.append((process_time() - began) / max(1, len(found[pair].judged)))
        sources = [said(source) for source in next(iter(found.values())).sources]
        print_table(["drawn → target", *sources], (list(published(*one)) for one in found.items()))
        print_table(["drawn → target", *sources], (list(shares(*one)) for one in found.items()))
        tables = pd.concat([of.table for of in found.values()])
        print_table(
            ["cues from", "fooled of 100", "second-order surely above", "surely below"],
            outcome(tables),
        )
        print_table(
            ["cues from", "fooled of 100, with a second thing", "without"],
            company(list(found.values())),
        )
        print_table(
            ["drawn → target", "first cues of second-order effects"],
            ([pair.replace(" ", " → "), first_cues(of)] for pair, of in found.items()),
        )
        print(f"\n{1000 * float(np.median(took)):.1f} ms of the processor a picture, all stages")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
