"""Units that models share: the list of concepts, and one of them with every model's maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.explorer.library import NotHere, OpenedUnits
from pipeline.explorer.model import NotYet
from pipeline.rosetta.answers import Concept, Inverted, about, concepts_of, inverted
from storage.errors import FacetError, Remedy
from storage.results import Result, finished_results

if TYPE_CHECKING:
    from pipeline.explorer.library import Library
    from pipeline.rosetta.replay import Mined

# Concepts on a page of the list: the examples of these are found at once.
PAGE = 20


@dataclass(frozen=True, eq=False)
class Known:
    """What was mined last.

    Attributes
    ----------
    result : Result
    models : list of str
        A generator first, where there is one.
    concepts : list of Concept
        Those that both halves show first, then by falling correlation.
    matches : DataFrame
        As ``rosetta/concepts`` has it.
    truth : DataFrame or None
        As ``rosetta_truth/truth`` has it, where that was found.
    """

    result: Result
    models: list[str]
    concepts: list[Concept]
    matches: pd.DataFrame
    truth: pd.DataFrame | None

    @property
    def hub(self) -> str:
        return str(self.result.provenance["hub"])


def known(units: OpenedUnits) -> Known:
    """What was mined last.

    Raises
    ------
    FacetError
        If nothing was.
    """
    result = units.latest("rosetta")
    if result is None:
        raise FacetError(
            f"no shared units were found in {units.typed} yet", Remedy.first("rosetta", units.url)
        )
    return units.cached(("known", result.name), lambda: _read(units, result))


def _read(units: OpenedUnits, result: Result) -> Known:
    table = result.table("concepts").to_pandas()
    truths = [
        r for r in finished_results(units.url, "rosetta_truth")
        if r.config["of"].rstrip("/").rpartition("/")[2] == result.name
    ]  # fmt: skip
    return Known(
        result,
        [name for name in (result.config["generator"], *result.config["models"]) if name],
        concepts_of(table, result.provenance["hub"]) if len(table) else [],
        table,
        truths[-1].table("truth").to_pandas() if truths else None,
    )


@dataclass(frozen=True)
class ConceptRow:
    """A concept of the list.

    Attributes
    ----------
    concept : Concept
    title : str
        What it is, as far as that is known.
    strength : float
        Correlation of its weakest match.
    replicates : bool
        Whether both halves of the images show it.
    """

    concept: Concept
    title: str
    strength: float
    replicates: bool


@dataclass(frozen=True, eq=False)
class SharedUnits:
    """Concepts that models share.

    Attributes
    ----------
    name, typed : str
        What they are called in addresses; where they are, as it was given.
    models : list of str
    hub, source : str
        The model that concepts go through, and where the images are from.
    images, replicated : int
        Images that they are over; concepts that both halves of them show.
    concepts : list of ConceptRow
    start, total : int
        Where in the list these stand, and concepts in it.
    true : bool
        Whether it is known what the concepts are about.
    inversions : Inverted or None
        What inversions through these units found.
    """

    name: str
    typed: str
    models: list[str]
    hub: str
    source: str
    images: int
    replicated: int
    concepts: list[ConceptRow]
    start: int
    total: int
    true: bool
    inversions: Inverted | None


def shared_units(units: OpenedUnits, start: int) -> SharedUnits:
    """A page of the concepts that models share."""
    of = known(units)
    rows = [
        ConceptRow(c, about(c, of.truth)[0], c.strength, c.replicates)
        for c in of.concepts[start : start + PAGE]
    ]
    found = units.latest("invert")
    return SharedUnits(
        units.name, units.typed, of.models, of.hub, units.setup.source, units.setup.images,
        sum(c.replicates for c in of.concepts), rows, start, len(of.concepts),
        of.truth is not None, None if found is None else inverted(found),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Examples:
    """Images on which the hub's unit of a concept is strongest, and every model's maps of them.

    Attributes
    ----------
    keys : list of str
        The strongest first.
    maps : list of (examples, height, width) float32
        One a member, 0 … 1 within a unit over the examples.
    pixels : list of (height, width, 3) uint8
    """

    keys: list[str]
    maps: list[NDArray[np.float32]]
    pixels: list[NDArray[np.uint8]] = field(metadata={"picture": True})


@dataclass(frozen=True, eq=False)
class ConceptView:
    """One concept.

    Attributes
    ----------
    name : str
        What the shared units are called in addresses.
    concept : Concept
    title, said : str
        What it is, as far as that is known; how well its units go together.
    place, total : int
        Its place in the list, from 1, and concepts in it.
    before, after : int or None
        The concepts of the places beside it.
    hub : str
    matches : DataFrame
        Every match of the hub's units of this concept, as ``rosetta/concepts`` has it.
    truth : dict of str to object
        Its row of ``rosetta_truth/truth``; empty where that is not known.
    examples : Examples or None
        Where that was asked for.
    why : str
        Why there are none; empty where there are.
    waiting : str
        What they wait for, in words, where they are to be asked for again in a moment.
    """

    name: str
    concept: Concept
    title: str
    said: str
    place: int
    total: int
    before: int | None
    after: int | None
    hub: str
    matches: pd.DataFrame
    truth: dict[str, object]
    examples: Examples | None
    why: str
    waiting: str


def concept_view(library: Library, units: OpenedUnits, number: int, maps: bool) -> ConceptView:
    """One concept.

    Parameters
    ----------
    maps : bool
        Whether to ask the models for examples.

    Raises
    ------
    NotHere
        If there is no such concept.
    """
    of = known(units)
    place = _place(of, number)
    concept = of.concepts[place]
    title, said = about(concept, of.truth)
    truth: dict[str, object] = {}
    if of.truth is not None:
        own = of.truth[(of.truth["pairing"] == "shared") & (of.truth["concept"] == number)]
        truth = {str(k): v for row in own.to_dict("records") for k, v in row.items()}
    found, why, waiting = None, "", ""
    if maps:
        try:
            found = examples(library, units, number)
        except NotYet as error:
            waiting = str(error)
        except FacetError as error:
            why = f"Where units fire takes the models' weights and the images: {error}"
    matches = of.matches[of.matches["concept"] == number]
    return ConceptView(
        units.name, concept, title, said, place + 1, len(of.concepts),
        of.concepts[place - 1].number if place else None,
        of.concepts[place + 1].number if place + 1 < len(of.concepts) else None,
        of.hub, matches, truth, found, why, waiting,
    )  # fmt: skip


def _place(of: Known, number: int) -> int:
    for place, concept in enumerate(of.concepts):
        if concept.number == number:
            return place
    raise NotHere(f"there is no concept {number}: {len(of.concepts):,} are shared")


# -- where units fire, by the models -------------------------------------------------------


def examples(library: Library, units: OpenedUnits, number: int) -> Examples:
    """Examples of a concept; those of its page of the list are found with them.

    Raises
    ------
    NotYet
        If the models are being loaded.
    FacetError
        If they cannot be, or no image is as it was.
    """
    of = known(units)
    first = _place(of, number) // PAGE * PAGE
    page = of.concepts[first : first + PAGE]
    found: dict[int, Examples] = units.cached(
        ("examples", of.result.name, first),
        lambda: library.model.ask_long(
            units, "every model looks through images of the set", examples_in, page
        ),
    )
    if number not in found:
        raise FacetError("none of the images is to be had as it was")
    return found[number]


def examples_in(mined: Mined, concepts: list[Concept]) -> dict[int, Examples]:
    """In the models' process: see `examples`."""
    from pipeline.rosetta.dictionary import entries

    return {e.concept.number: Examples(e.keys, e.maps, e.pixels) for e in entries(mined, concepts)}
