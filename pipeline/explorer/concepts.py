"""Concepts of a picture: each method beside the others, who said them, where they come from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.concepts.answers import METHODS, Concepts
from pipeline.concepts.choices import OF_NEURONS, Method
from pipeline.concepts.codes import Coded, coded_layers
from pipeline.explorer.errors import NotHere
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.model import NotYet
from pipeline.explorer.saying import say
from pipeline.explorer.subject import Subject, decomposed, refuse_nothing
from pipeline.heatmaps.seen import Seen
from pipeline.neurons.choices import parse_mlp_layers
from pipeline.pages.concepts import about, first, signed
from pipeline.pages.pictures import overlay
from storage.errors import FacetError
from storage.reductions import find_reductions

# Who is named of each concept; maps.
NAMED, MAPS = 3, 6
# Pixels of a map's shorter side, at least.
SIDE = 256
# Moments that codes of heads and of the embedding take.
MOMENTS = {
    "heads": ("heads_mean", "mlps_mean", "embedding_mean"),
    "embedding": ("embedding_mean",),
}


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes
    ----------
    methods : tuple of Method
    mlp_layers : tuple of int
        Whose neurons are asked; coded, all of them.
    """

    methods: tuple[Method, ...]
    mlp_layers: tuple[int, ...]


@dataclass(frozen=True)
class Sayer:
    """A neuron or head that speaks for a concept: coefficient × weight of its score."""

    at: str
    coefficient: float
    weight: float


@dataclass(frozen=True)
class Concept:
    """A text, its score, who says it (the strongest first), and how many do."""

    text: str
    score: float
    said: tuple[Sayer, ...]
    parts: int


@dataclass(frozen=True)
class Column:
    """What one method says.

    Attributes
    ----------
    method, title : str
    about : str
        How many spoke, and what codes leave.
    concepts : tuple of Concept
        What is spoken for by falling score, then what is spoken against.
    lacking, command : str
        Why there is nothing, and what would find it; empty where that is not so.
    """

    method: Method
    title: str
    about: str = ""
    concepts: tuple[Concept, ...] = ()
    lacking: str = ""
    command: str = ""

    @property
    def top(self) -> float:
        """The largest size of a score."""
        return max((abs(of.score) for of in self.concepts), default=0.0)


@dataclass(frozen=True)
class MapShown:
    """A map over the picture: its address, what it is of, and what it says."""

    picture: str
    heading: str
    caption: str


@dataclass(frozen=True, eq=False)
class ConceptsView:
    """Concepts of a picture.

    Attributes
    ----------
    subject : Subject
    asked : Asked
    typed : str
        MLP layers, as they were asked for.
    coded : tuple of int
        MLP layers whose neurons are in words.
    columns : tuple of Column
    maps : tuple of MapShown
        Where the first concepts of the neurons come from.
    fires : tuple of MapShown
        Where the neurons fire that weigh most.
    strongest : float
        The end of the maps' common scale.
    found : Concepts or None
        All of it, as the job finds it.
    waiting, why : str
        Why there is nothing yet; why there is nothing at all. Empty where that is not so.
    """

    subject: Subject
    asked: Asked
    typed: str
    coded: tuple[int, ...]
    columns: tuple[Column, ...]
    maps: tuple[MapShown, ...] = ()
    fires: tuple[MapShown, ...] = ()
    strongest: float = 0.0
    found: Concepts | None = None
    waiting: str = ""
    why: str = ""

    @property
    def titles(self) -> dict[str, str]:
        """Methods and what they are called."""
        return METHODS


def coded_of(here: Opened) -> dict[int, Coded]:
    """The MLP layers whose neurons are in words; read once."""
    return here.cached("coded layers", lambda: coded_layers(here.store))


def read_asked(here: Opened, methods: Sequence[str] = (), mlp_layers: str = "") -> Asked:
    """What an address asks for; all there is, unless it says otherwise.

    Raises
    ------
    FacetError
        If there is no such method, or a layer's neurons are not in words.
    """
    known = get_args(Method)
    if unknown := [name for name in methods if name not in known]:
        raise FacetError(f"`method` {unknown[0]!r}: {', '.join(known)}")
    coded = coded_of(here)
    layers = tuple(coded)
    if typed := mlp_layers.replace(" ", ""):
        layers = parse_mlp_layers(typed, here.meta)
        if lacking := [at for at in layers if at not in coded]:
            listed = ", ".join(map(str, coded)) or "none"
            raise FacetError(
                f"the neurons of MLP layer {lacking[0]} are not in words; those of {listed} are"
            )
    return Asked(tuple(name for name in known if not methods or name in methods), layers)


def concepts_view(
    library: Library,
    here: Opened,
    subject: Subject,
    methods: Sequence[str] = (),
    mlp_layers: str = "",
) -> ConceptsView:
    """What is in a picture, by each method; or why it is not known.

    Parameters
    ----------
    library : Library
    here : Opened
    subject : Subject
    methods : sequence of str
    mlp_layers : str
        As they were typed.
    """
    refuse_nothing(subject)
    asked = read_asked(here, methods, mlp_layers)
    lacking = {method: lacks(here, method, asked) for method in asked.methods}
    columns = tuple(
        Column(method, METHODS[method], lacking=why, command=here.hint(job))
        for method, (why, job) in lacking.items()
    )
    view = ConceptsView(subject, asked, mlp_layers, tuple(coded_of(here)), columns)
    try:
        found = concepts(library, here, subject, asked)
    except NotYet as error:
        return replace(view, waiting=str(error))
    except FacetError as error:
        return replace(view, why=str(error))
    if found is None:
        return view
    query = urlencode([*(("method", m) for m in asked.methods), ("mlp_layers", mlp_layers)])
    address = f"{subject.address}/concepts"
    return replace(
        view,
        columns=tuple(
            column if column.lacking else _column(found, found.names[0], column.method)
            for column in columns
        ),
        maps=tuple(
            MapShown(f"{address}/maps/{n}.png?{query}", of.text, _caption(of.map_rc, of.outside))
            for n, of in enumerate(found.maps[:MAPS])
        ),
        fires=tuple(
            MapShown(
                f"{address}/fires/{n}.png?{query}", f"{of.layer}.{of.neuron}",
                f"{_largest(of.map_rc):.2f}",
            )
            for n, of in enumerate(found.fires)
        ),
        strongest=_scale(found),
        found=found,
    )  # fmt: skip


def lacks(here: Opened, method: Method, asked: Asked) -> tuple[str, str]:
    """Why a method has nothing to say, and the job that would help; empty where it has."""
    if not asked.mlp_layers:
        if method in OF_NEURONS:
            return "No neurons of this store are in words yet.", "omp"
        return "No neurons are in words yet, whose texts would be the dictionary.", "omp"
    if method in OF_NEURONS:
        return "", ""
    if not {"heads", "mlps"} <= set(here.meta.components):
        return "This store keeps no heads, or no MLPs.", ""
    reductions = find_reductions(here.url, here.meta, None)
    if reductions is None or not set(MOMENTS[method]) <= set(reductions.data):
        return "Means over all images are not known yet.", "reduce"
    return "", ""


def concepts(library: Library, here: Opened, subject: Subject, asked: Asked) -> Concepts | None:
    """What the methods say that can say anything; None where there are none. Made once.

    Raises
    ------
    NotYet
        If the model is being loaded.
    FacetError
        If it cannot be had.
    """
    methods = tuple(method for method in asked.methods if not lacks(here, method, asked)[0])
    if not methods:
        return None
    coded = coded_of(here)
    layers = tuple((at, coded[at].codes.name, coded[at].effects.name) for at in asked.mlp_layers)
    parts = None
    if set(methods) - OF_NEURONS:
        parts = decomposed(library, here, subject).parts
    picture = subject.index if subject.data is None else subject.data
    return here.cached(
        ("concepts", methods, layers, subject.key),
        lambda: library.model.ask(here, say, methods, layers, picture, subject.name, parts),
    )


def _column(found: Concepts, name: str, method: Method) -> Column:
    (row,) = (of for of in found.methods(name) if of["method"] == method)
    told = []
    for concept in first(found.of(name, method)):
        who = found.who_said(name, method, concept["text"])
        said = tuple(
            Sayer(f"{w['layer']}.{w['part']}", w["coefficient"], w["weight"]) for w in who[:NAMED]
        )
        told.append(Concept(concept["text"], concept["score"], said, len(who)))
    return Column(method, METHODS[method], about(row), tuple(told))


def _caption(map_rc: NDArray[np.float64], outside: float) -> str:
    shown = float(map_rc.sum())
    return f"map {signed(shown)}, left out {signed(outside)}, score {signed(shown + outside)}"


def _largest(map_rc: NDArray[np.float64]) -> float:
    return float(np.abs(map_rc).max())


def _scale(found: Concepts) -> float:
    """The largest size of a patch of the maps that are shown: all have one scale."""
    return max((_largest(of.map_rc) for of in found.maps[:MAPS]), default=0.0)


def concept_map(
    library: Library, here: Opened, subject: Subject, asked: Asked, seen: Seen, number: int
) -> bytes:
    """Where a concept comes from, over the picture as the model saw it: a PNG file."""
    found = concepts(library, here, subject, asked)
    maps = [] if found is None else found.maps[:MAPS]
    if not 0 <= number < len(maps):
        raise NotHere(f"{len(maps)} maps of concepts are shown of this picture")
    assert found is not None
    return _drawn(seen, maps[number].map_rc / (_scale(found) or 1.0))


def fires_map(
    library: Library, here: Opened, subject: Subject, asked: Asked, seen: Seen, number: int
) -> bytes:
    """Where a neuron fires, over the picture as the model saw it: a PNG file."""
    found = concepts(library, here, subject, asked)
    fires = [] if found is None else found.fires
    if not 0 <= number < len(fires):
        raise NotHere(f"{len(fires)} neurons are shown of this picture")
    map_rc = fires[number].map_rc
    return _drawn(seen, map_rc / (_largest(map_rc) or 1.0))


def _drawn(seen: Seen, map_rc: NDArray[np.float64]) -> bytes:
    image = Image.fromarray(seen.pixels)
    times = -(-SIDE // min(image.size))
    image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    overlay(image, map_rc).save(buffer, format="png")
    return buffer.getvalue()
