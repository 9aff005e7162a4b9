"""Spaces that images are compared in, as addresses name them, and what is nearest in one.

``whole``, ``head:1.3``, ``heads:1.3,2.1``, ``layer:3``, ``property:colours``. Images are compared
by what the heads wrote of them, less its mean over all images; several heads stand side by side,
and a property is all the heads that carry its label. That is the search of ``pipeline/search``, in
one pass over the index; a store so small that its rows can be held needs none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster import machines
from pipeline.explorer.library import NotHere, Opened
from pipeline.explorer.together import Together
from pipeline.heads.choices import Head, parse_heads
from pipeline.labels.found import heads_with
from pipeline.search.choices import Metric, Space, refuse_parts
from pipeline.search.coordinates import Coordinates
from pipeline.search.found import space_name
from pipeline.search.vectors import image_vectors
from storage import head_index, urls
from storage.errors import FacetError, StoreError
from storage.layout import CONTRIBUTIONS

if TYPE_CHECKING:
    from pipeline.heads.parts import StoredParts

# Numbers that are read and held of a store that has no index: of 20,000 images, 12 heads of 64.
DIRECT = 1 << 24
# Images that are found at most.
MOST = 200
FORMS = "whole, head:1.3, heads:1.3,2.1, layer:3 or property:colours"


@dataclass(frozen=True)
class NamedSpace:
    """What images are compared in.

    Attributes
    ----------
    address : str
        As addresses have it.
    name : str
        In words.
    space : Space
    """

    address: str
    name: str
    space: Space


@dataclass(frozen=True)
class Choice:
    """A space that may be chosen, as addresses have it and in words."""

    address: str
    name: str


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for, in the coordinates of a space.

    Attributes
    ----------
    vector : (width,) float32
        Not centred.
    is_text : bool
    image : int or None
        That of the store which it is: it is not found as its own.
    """

    vector: NDArray[np.float32]
    is_text: bool = False
    image: int | None = None


# Images, their scores, and how many could be found.
Ranked = tuple[NDArray[np.int64], NDArray[Any], int]
# Two scans at once would only be late both, and one serves many queries.
_scans: Together[tuple[Query, int], Ranked] = Together()


@dataclass(frozen=True)
class Near:
    """An image that was found."""

    index: int
    key: str
    label: str | None
    caption: str | None
    score: float


@dataclass(frozen=True)
class Nearest:
    """The images that are nearest to a query.

    Attributes
    ----------
    space : Choice
    metric : {"cosine", "dot"}
        The cosine of what is left once the mean over all images is taken off, or the inner product
        on the published scale, over ‖embedding‖.
    where : str or None
        Which images could be found.
    among : int
        How many those are, bad ones among them.
    indexed : bool
        Whether they were found in the index, or in the contributions themselves.
    images : tuple of Near
        The nearest first.
    """

    space: Choice
    metric: Metric
    where: str | None
    among: int
    indexed: bool
    images: tuple[Near, ...]


def parse_space(here: Opened, asked: str) -> NamedSpace:
    """A space by its name in addresses.

    Raises
    ------
    NotHere
        If the model has no such head or layer, or no head carries the label.
    FacetError
        If it cannot be read, or the store does not keep what it takes.
    """
    kind, _, rest = asked.strip().partition(":")
    rest, meta = rest.strip(), here.meta
    space, name = Space((), embedding=True), ""
    match kind:
        case "whole" if not rest:
            pass
        case "head" | "heads" if rest:
            try:
                heads = parse_heads([rest], meta.layers, meta.heads)
            except FacetError as error:
                raise NotHere(str(error).replace("`heads` ", "head ")) from error
            space = Space(heads)
        case "layer" if rest.isdecimal():
            if int(rest) >= meta.layers:
                raise NotHere(f"layer {rest}: the model's layers are 0-{meta.layers - 1}")
            space = Space(tuple((int(rest), head) for head in range(meta.heads)))
            name = f"all heads of layer {int(rest)}"
        case "property" if rest:
            space = Space(property_heads(here, rest))
            name = f"{rest} ({space_name(space)})"
        case _:
            raise FacetError(f"{asked!r} is no space that images are compared in: write {FORMS}")
    refuse_parts(here.typed, meta, space)
    return NamedSpace(asked.strip(), name or space_name(space), space)


def property_heads(here: Opened, property: str) -> tuple[Head, ...]:
    """All heads that carry a label.

    Raises
    ------
    NotHere
        If none does, or heads have no labels yet.
    """
    try:
        return here.cached(("heads with", property), lambda: heads_with(here.store, property))
    except StoreError:
        raise
    except FacetError as error:
        raise NotHere(str(error)) from error


def judged_labels(here: Opened) -> Mapping[Head, str | None]:
    """The label of every head by the labels asked for last; None where the judge named none."""

    def read() -> Mapping[Head, str | None]:
        result = here.latest("label")
        rows = [] if result is None else result.table("labels").to_pylist()
        return {(r["layer"], r["head"]): r["label"] for r in rows}

    return here.cached("labels of heads", read)


def labels_of(here: Opened) -> Mapping[Head, str]:
    """The label of every head that was given one."""
    return {at: label for at, label in judged_labels(here).items() if label is not None}


def choices(here: Opened) -> tuple[Choice, ...]:
    """What may be chosen: the whole embedding, properties, layers, single heads."""
    found, meta = [Choice("whole", "the whole embedding")], here.meta
    if "heads" not in meta.components:
        return tuple(found)
    labels = labels_of(here)
    counted = {name: list(labels.values()).count(name) for name in labels.values()}
    for name in sorted(counted):
        several = "s" if counted[name] > 1 else ""
        found.append(Choice(f"property:{name}", f"{name} ({counted[name]} head{several})"))
    for layer in reversed(range(meta.layers)):
        found.append(Choice(f"layer:{layer}", f"all heads of layer {layer}"))
    for layer in reversed(range(meta.layers)):
        for head in range(meta.heads):
            about = f", {labels[layer, head]}" if (layer, head) in labels else ""
            found.append(Choice(f"head:{layer}.{head}", f"head {layer}.{head}{about}"))
    return tuple(found)


def coordinates(here: Opened, space: Space) -> Coordinates:
    """The coordinates of a space, made once."""
    return here.cached(("coordinates", space), lambda: Coordinates.of(here.store, space))


def image_query(here: Opened, asked: NamedSpace, index: int) -> Query:
    """An image of the store that is ok."""
    vectors = image_vectors(here.store, coordinates(here, asked.space), [index])
    return Query(vectors[0], image=index)


def parts_query(here: Opened, asked: NamedSpace, parts: StoredParts) -> Query:
    """A picture that the store need not hold: what one pass of the model gave of it, one row."""
    return Query(coordinates(here, asked.space).parts(parts)[0])


def text_query(here: Opened, asked: NamedSpace, text_e: NDArray[np.floating]) -> Query:
    """A text, a unit row of the joint space, (embed,)."""
    return Query(coordinates(here, asked.space).texts(text_e[None])[0], is_text=True)


def nearest(
    here: Opened,
    asked: NamedSpace,
    query: Query,
    *,
    metric: Metric = "cosine",
    where: str | None = None,
    top: int = 24,
) -> Nearest:
    """The images of the store that are nearest to a query, exactly.

    Parameters
    ----------
    here : Opened
    asked : NamedSpace
    query : Query
        In this space.
    metric : {"cosine", "dot"}
    where : str, optional
        Which images may be found.
    top : int
        At most so many.

    Raises
    ------
    StoreError
        If the store is large and lacks an index of the space; its remedy says how to get it.
    FacetError
        If the condition cannot be read.
    """
    top = max(1, min(top, MOST))
    chosen = None if where is None else chosen_images(here, where)
    more = top + (query.image is not None)
    indexed = is_indexed(here, asked.space)
    search = _scan if indexed else _compare
    # Texts are asked for again and again.
    told = hashlib.sha256(query.vector.tobytes()).digest(), query.is_text
    rows, scores, among = here.cached(
        ("nearest", asked.space, metric, where, more, told),
        lambda: search(here, asked.space, query, metric, chosen, more),
    )
    kept = np.flatnonzero((rows >= 0) & (rows != (-1 if query.image is None else query.image)))
    found = pictured(here, rows[kept][:top], scores[kept][:top])
    return Nearest(Choice(asked.address, asked.name), metric, where, among, indexed, found)


def is_indexed(here: Opened, space: Space) -> bool:
    """Whether a search goes through the index, or through the contributions themselves.

    Raises
    ------
    StoreError
        If the index lacks the space, and the store is too large to be searched without.
    """
    try:
        head_index.open_parts(here.store, space.parts)
    except StoreError:
        meta = here.meta
        layers = len({layer for layer, _ in space.heads})
        read = layers * meta.heads * meta.head_dim + len(space.blocks) * meta.width
        if meta.images * (read + space.embedding * meta.embed) > DIRECT:
            raise
        return False
    return True


def chosen_images(here: Opened, where: str) -> NDArray[np.bool_]:
    """Which images a condition takes, (images,)."""
    from pipeline.search import scan  # with torch

    def choose() -> NDArray[np.bool_]:
        chosen = scan.chosen_images(here.store, where)
        assert chosen is not None  # as there is a condition
        return chosen

    return here.cached(("chosen images", where), choose)


def pictured(here: Opened, rows: NDArray[np.int64], scores: NDArray[Any]) -> tuple[Near, ...]:
    """Images with their names and scores, in the given order."""
    if not len(rows):
        return ()
    table = here.store.some_images(np.unique(rows)).to_pylist()
    known = {row["index"]: row for row in table}
    return tuple(
        Near(i, known[i]["key"], known[i]["label"], known[i]["caption"], float(score))
        for i, score in zip(rows.tolist(), scores, strict=True)
    )


def _scan(
    here: Opened,
    space: Space,
    query: Query,
    metric: Metric,
    chosen: NDArray[np.bool_] | None,
    top: int,
) -> Ranked:
    """One pass over the index, with the queries that wait for the same."""
    from pipeline.search import scan  # with torch

    # To tell which of the chosen ones are bad would take a pass of its own.
    among = here.meta.images if chosen is None else int(chosen.sum())

    def answer(asked: list[tuple[Query, int]]) -> list[Ranked]:
        vectors_qw = np.stack([one.vector for one, _ in asked])
        queries = scan.Queries(vectors_qw, np.array([one.is_text for one, _ in asked]))
        most = max(top for _, top in asked)
        cores = max(1, machines.own_cpus() - 1)  # one is left to what is quick
        found = scan.nearest(
            here.store, space, queries, metric=metric, top=most, chosen=chosen, cores=cores
        )
        return [
            (rows[:top], scores[:top], among)
            for (_, top), rows, scores in zip(asked, found.rows_qk, found.scores_qk, strict=True)
        ]

    # Of one condition there is one array, as long as it is kept.
    return _scans.ask((here.url, space, metric, id(chosen)), (query, top), answer)


def _compare(
    here: Opened,
    space: Space,
    query: Query,
    metric: Metric,
    chosen: NDArray[np.bool_] | None,
    top: int,
) -> Ranked:
    """All rows of a small store, which are held."""

    def read() -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        data: Any = urls.open_group(urls.join(here.store.data, CONTRIBUTIONS), mode="r")
        numbers = np.flatnonzero(np.isfinite(np.asarray(data["ln_std"][:])))
        rows = image_vectors(here.store, coordinates(here, space), numbers.tolist())
        mean = rows.mean(0, dtype=np.float64).astype(np.float32) if len(rows) else rows.sum(0)
        return numbers, rows - mean, mean

    numbers, rows_nw, mean_w = here.cached(("rows of", space), read)
    vector_w = query.vector if query.is_text else query.vector - mean_w
    scores_n = rows_nw @ vector_w
    if metric == "cosine":
        # A text has the length of a unit row of the joint space in every part.
        own = np.sqrt(len(space.parts)) if query.is_text else np.linalg.norm(vector_w)
        lengths_n = own * np.linalg.norm(rows_nw, axis=1)
        scores_n = scores_n / np.where(lengths_n > 0, lengths_n, 1)
    if chosen is not None:
        numbers, scores_n = numbers[chosen[numbers]], scores_n[chosen[numbers]]
    order = np.lexsort((numbers, -scores_n))[:top]
    among = here.meta.images if chosen is None else int(chosen.sum())
    return numbers[order], scores_n[order], among
