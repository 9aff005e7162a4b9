"""What a model takes for another class: cues, told from kept directions and codes, and what came of
the pictures that were made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.adversarial import cues as mining
from pipeline.adversarial.answers import Adversarial, adversarial, said, shown
from pipeline.adversarial.choices import ALIKE, CUES, NEURONS
from pipeline.adversarial.coded import CodedNeurons, coded_pool, coded_results, read_coded
from pipeline.adversarial.rules import Rules, attribute_of
from pipeline.adversarial.synonyms import Synonyms, by_tower
from pipeline.explorer.errors import NotHere
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.maps import SIDE
from pipeline.explorer.model import NotYet
from pipeline.explorer.scene import Asked, filled, read_classes, readout
from pipeline.neurons.answers import CodeText
from pipeline.pages.adversarial import outcome, rates_header, rates_rows, sentence, warned
from pipeline.pages.pictures import as_png, overlay
from pipeline.texts.classes import Classes, nearest
from storage.errors import FacetError
from storage.results import Result

JOB = "adversarial"
# Neurons that are shown, and texts of each.
SHOWN, TEXTS = 12, 4


@dataclass(frozen=True)
class Cue:
    """A text that speaks for the target, and why it is no cue, if it is none."""

    text: str
    score: float
    similarity: float
    used: bool
    why: str


@dataclass(frozen=True)
class Speaker:
    """A neuron that speaks for the target, or against it: ⟨v, its direction⟩; its first texts."""

    layer: int
    neuron: int
    projection: float
    texts: tuple[CodeText, ...]


@dataclass(frozen=True)
class Cues:
    """What else makes the model see the target (Gandelsman 2025, Eq. 3.4).

    Attributes
    ----------
    pool : str
        Texts that cues are among.
    mlp_layers : tuple of int
    neurons, of : int
        Those that speak loudest, of how many.
    mined, similar : tuple of Cue
        By those neurons; for comparison the texts most like the difference of both classes.
    speakers : tuple of Speaker
    """

    pool: str
    mlp_layers: tuple[int, ...]
    neurons: int
    of: int
    mined: tuple[Cue, ...]
    similar: tuple[Cue, ...]
    speakers: tuple[Speaker, ...]


@dataclass(frozen=True)
class Shown:
    """A picture that was made.

    Attributes
    ----------
    picture, map : str
        Addresses of it, and of what speaks for the target in it; of the latter empty where there
        is none.
    source : str
        Where its cues came from, in words.
    text : str
        Its description.
    cues : tuple of str
        Those of them that the description has.
    said : str
        What came of it, and by how much the target is nearer than the drawn class.
    """

    picture: str
    map: str
    source: str
    text: str
    cues: tuple[str, ...]
    said: str


@dataclass(frozen=True, eq=False)
class Chain:
    """What came of the pictures of a pair that were asked for last.

    Attributes
    ----------
    result : str
        Its name.
    said : str
        Whether second-order effects do better than others.
    notes : tuple of str
    header : tuple of str
    rows : tuple of tuple of str
        How often the model was taken in, by source of cues.
    pictures : tuple of Shown
    strongest : float
        The end of the maps' common scale; 0 where there are none.
    """

    result: str
    said: str
    notes: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    pictures: tuple[Shown, ...]
    strongest: float


@dataclass(frozen=True)
class Pair:
    """Two classes of which pictures were made before."""

    drawn: str
    target: str


@dataclass(frozen=True, eq=False)
class AdversarialView:
    """Which cues make a model take a class for another, and pictures made from them.

    Attributes
    ----------
    classes : str
        As they were asked for, or are known.
    names : tuple of str
        Of the classes.
    drawn, target : str
        Empty where they were not chosen yet.
    made : tuple of Pair
        Pairs of which there are pictures.
    cues : Cues or None
    chain : Chain or None
    command : str
        What makes pictures of the pair; empty where nothing is chosen.
    problem, waiting, remedy : str
        Why there are no cues, or not yet; the command that would help.
    """

    classes: str
    names: tuple[str, ...]
    drawn: str
    target: str
    made: tuple[Pair, ...]
    cues: Cues | None = None
    chain: Chain | None = None
    command: str = ""
    problem: str = ""
    waiting: str = ""
    remedy: str = ""


def adversarial_view(
    library: Library,
    here: Opened,
    drawn: str = "",
    target: str = "",
    typed: str = "",
    neurons: int = NEURONS,
) -> AdversarialView:
    """Cues of a pair of classes, and what there is of its pictures.

    Parameters
    ----------
    library : Library
    here : Opened
    drawn, target : str
        Names of classes; empty to be asked for them.
    typed : str
        The classes: see ``scene.Asked``. By default those that are known of the store.
    neurons : int
        How many are asked.

    Raises
    ------
    FacetError
        If both are one class, or one is none.
    """
    made = tuple(
        dict.fromkeys(Pair(r.config["drawn"], r.config["target"]) for r in here.results(JOB))
    )
    try:
        asked = typed or usual_classes(here)
        classes = here.cached(("classes", asked), lambda: read_classes(asked))
    except FacetError as error:
        if typed or drawn or target:
            raise
        return AdversarialView(typed, (), "", "", made, problem=str(error))
    view = AdversarialView(asked, classes.names, drawn, target, made)
    if not (drawn and target):
        return view
    pair = pair_of(classes, drawn, target)
    view = replace(view, command=_command(here, asked, drawn, target), chain=chain_of(here, pair))
    try:
        found = here.cached(
            ("cues", asked, drawn, target, neurons),
            lambda: cues_of(library, here, pair, attribute_of(asked), neurons),
        )
    except NotYet as error:
        return replace(view, waiting=str(error))
    except FacetError as error:
        remedy = "" if error.remedy is None else here.hint(error.remedy.name.replace("_", "-"))
        return replace(view, problem=str(error), remedy=remedy)
    return replace(view, cues=found)


def usual_classes(here: Opened) -> str:
    """The classes of a store, where nobody says which."""
    if here.meta.source.startswith("microworld"):
        return "microworld:shape"
    return filled(here, Asked("", "label", "", "")).classes


def pair_of(classes: Classes, drawn: str, target: str) -> Classes:
    """The drawn class and the target, in this order.

    Raises
    ------
    FacetError
        If both are the same, or one is no class.
    """
    if drawn == target:
        raise FacetError(f"`drawn` and `target` are both {drawn!r}: nothing could be confused")
    for name in (drawn, target):
        if name not in classes.names:
            raise NotHere(f"there is no class {name!r} here{nearest(name, classes.names)}")
    at = [classes.names.index(name) for name in (drawn, target)]
    return Classes((drawn, target), tuple(classes.prompts[i] for i in at), {drawn: 0, target: 1})


def _command(here: Opened, classes: str, drawn: str, target: str) -> str:
    given = {"store": here.typed, "drawn": drawn, "target": target}
    usual = here.meta.source.startswith("microworld") and classes == "microworld:shape"
    if attribute_of(classes) is not None or classes.strip() == "imagenet":
        given |= {} if usual else {"classes": classes.strip()}
    return here.command(JOB, given)


# -- cues ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Known:
    """Neurons in words, and the embeddings of the texts that they are of."""

    coded: CodedNeurons
    layers: dict[int, Result]
    pool: str
    texts_me: Any


def known_neurons(here: Opened) -> _Known:
    """All neurons in words over the pool of the codes that were asked for last; read once."""

    def read() -> _Known:
        results = coded_results(here.store, None, None)
        pool = coded_pool(here.store, next(iter(results.values())))
        coded = read_coded(here.store, results)
        return _Known(coded, results, pool.source, pool.embeddings)

    return here.cached("coded neurons", read)


def cues_of(
    library: Library, here: Opened, pair: Classes, attribute: str | None, neurons: int
) -> Cues:
    """Cues of a pair of classes by Eq. 3.4; no model runs but for classes that are new to it.

    Raises
    ------
    NotYet
        If the model is being loaded for texts of the classes.
    FacetError
        If no neurons are in words.
    """
    known = known_neurons(here)
    coded, means_2e = known.coded, readout(library, here, pair)
    v_e = mining.direction_of(means_2e, 0, 1)
    drawn, target = pair.names
    similarity = by_tower(coded.texts, known.texts_me, means_2e[1])
    judge = Synonyms(Rules(drawn, target, (), attribute), similarity, ALIKE)
    mined, chosen = mining.of_source("second-order", coded, v_e, judge, neurons=neurons, cues=CUES)
    similar = mining.pick(coded.texts, mining.similar(known.texts_me, v_e), judge, CUES)
    return Cues(
        known.pool,
        tuple(known.layers),
        len(chosen),
        len(coded.layers_n),
        _listed(mined),
        _listed(similar),
        tuple(_speaker(coded, row) for row in chosen[:SHOWN].to_dict("records")),
    )


def _listed(cues: pd.DataFrame) -> tuple[Cue, ...]:
    names = ["text", "score", "similarity", "used", "why"]
    return tuple(Cue(*row) for row in cues[names].itertuples(index=False))


def _speaker(coded: CodedNeurons, row: dict[Any, Any]) -> Speaker:
    at = (coded.layers_n == row["layer"]) & (coded.neurons_n == row["neuron"])
    own = np.flatnonzero(coded.rows_k == np.flatnonzero(at)[0])
    first = own[np.argsort(-np.abs(coded.coefficients_k[own]), kind="stable")[:TEXTS]]
    texts = (CodeText(coded.texts[coded.texts_k[k]], float(coded.coefficients_k[k])) for k in first)
    return Speaker(int(row["layer"]), int(row["neuron"]), float(row["projection"]), tuple(texts))


# -- pictures ------------------------------------------------------------------------------


def chain_of(here: Opened, pair: Classes) -> Chain | None:
    """What came of the pictures of a pair that were asked for last; None where there are none."""
    names = list(pair.names)
    made = [r for r in here.results(JOB) if [r.config["drawn"], r.config["target"]] == names]
    if not made:
        return None
    return here.cached(("chain", made[0].url), lambda: _chain(here, made[0]))


def found_of(here: Opened, name: str) -> Adversarial:
    """All of a result, by its name.

    Raises
    ------
    NotHere
        If there is none of that name.
    """
    result = next((r for r in here.results(JOB) if r.name == name), None)
    if result is None:
        raise NotHere(f"no pictures of the name {name!r} were judged in {here.name}")
    return here.cached(("adversarial", result.url), lambda: adversarial(result))


def rows_shown(found: Adversarial) -> list[dict[Any, Any]]:
    """The pictures that are shown, with their descriptions, in the table's order of sources."""
    about = found.pictures[["source", "file", "text"]]
    rows = shown(found.judged).merge(about, on=["source", "file"]).to_dict("records")
    return sorted(rows, key=lambda row: found.sources.index(row["source"]))


def _chain(here: Opened, result: Result) -> Chain:
    found = found_of(here, result.name)
    mapped = {of.file for of in found.maps}
    address = f"/s/{here.name}/adversarial/{result.name}"
    pictures = tuple(
        Shown(
            f"{address}/picture/{number}.png",
            f"{address}/map/{number}.png" if row["file"] in mapped else "",
            said(row["source"]),
            row["text"],
            tuple(found.cues_in(row["source"], row["repeat"], row["description"])),
            outcome(row),
        )
        for number, row in enumerate(rows_shown(found))
    )
    return Chain(
        result.name,
        sentence(found),
        tuple(warned(found)),
        ("cues from", *rates_header(found)),
        tuple(rates_rows(found)),
        pictures,
        _scale(found),
    )


def _scale(found: Adversarial) -> float:
    """The largest size of a patch of any map: all have one scale."""
    return max((float(np.abs(of.map_rc).max()) for of in found.maps), default=0.0)


def picture_file(here: Opened, name: str, number: int) -> bytes:
    """A picture that is shown, as a PNG file.

    Raises
    ------
    NotHere
        If there is none.
    """
    found = found_of(here, name)
    rows = rows_shown(found)
    if not 0 <= number < len(rows):
        raise NotHere(f"{len(rows)} of the pictures are shown")
    return as_png(_large(found.picture(rows[number]["file"])))


def map_file(here: Opened, name: str, number: int) -> bytes:
    """What speaks for the target in a picture that is shown, over it as the model saw it.

    Raises
    ------
    NotHere
        If there is none.
    """
    found = found_of(here, name)
    rows, maps = rows_shown(found), {of.file: of for of in found.maps}
    if not 0 <= number < len(rows) or rows[number]["file"] not in maps:
        raise NotHere("there is no map of this picture")
    of = maps[rows[number]["file"]]
    return as_png(overlay(_large(Image.fromarray(of.pixels)), of.map_rc / (_scale(found) or 1.0)))


def _large(image: Image.Image) -> Image.Image:
    """Small pictures are enlarged, pixel by pixel."""
    times = max(1, -(-SIDE // min(image.size)))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
