"""What there is to look at; what a store is, at a glance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from pipeline.explorer.library import Library, Opened
from pipeline.explorer.matrix import Matrix, choices, matrix
from pipeline.explorer.spaces import labels_of
from pipeline.heads.choices import Head
from pipeline.pages import notes, sentences
from pipeline.status import ExtractionStatus, extraction, index
from pipeline.subsets import spread
from storage.reductions import all_reductions
from storage.results import read_index

# Pictures of a store to begin with.
PICTURES = 12


@dataclass(frozen=True)
class Analysis:
    """A question that can be asked of a picture or a text.

    Attributes
    ----------
    title, said : str
        What is asked, and what the answer is.
    address : str
        The answer, for a first choice of picture, head and texts.
    lacking, command : str
        What it needs and is not there, and the command that finds it.
    """

    title: str
    said: str
    address: str
    lacking: str = ""
    command: str = ""


@dataclass(frozen=True)
class Shelf:
    """A store, on the page that one begins with.

    Attributes
    ----------
    name, typed, model, weights, source : str
    images : int
    pictures : tuple of int
        Some images, spread evenly.
    analyses : tuple of Analysis
    """

    name: str
    typed: str
    model: str
    weights: str
    source: str
    images: int
    pictures: tuple[int, ...]
    analyses: tuple[Analysis, ...]


@dataclass(frozen=True)
class Start:
    """What this server looks at.

    Attributes
    ----------
    stores : tuple of Shelf
    rosettas : dict of str to str
        Where places of shared units are, by their names in addresses.
    """

    stores: tuple[Shelf, ...]
    rosettas: dict[str, str]


def start(library: Library) -> Start:
    """All that can be looked at; nothing is read but what stores say of themselves and labels."""
    return Start(
        tuple(shelf(opened) for opened in library.stores.values()),
        {name: opened.typed for name, opened in library.rosettas.items()},
    )


def shelf(here: Opened) -> Shelf:
    """A store to begin with."""
    meta = here.meta
    pictures = tuple(spread(range(meta.images), PICTURES))
    return Shelf(
        here.name, here.typed, meta.architecture, meta.weights, meta.source, meta.images, pictures,
        analyses(here, pictures[0]),
    )  # fmt: skip


def analyses(here: Opened, image: int) -> tuple[Analysis, ...]:
    """The questions to begin with, of an image of the store."""
    labels = labels_of(here)
    last: Head = (here.meta.layers - 1, 0)
    at, property = next(iter(sorted(labels.items(), reverse=True)), (last, ""))
    head = f"{at[0]}.{at[1]}"
    row = here.store.images(image, image + 1).to_pylist()[0]
    text = row["caption"] or (f"a {row['label']}" if row["label"] else "a picture")
    of, none = f"/s/{here.name}/image/{image}", "" if labels else "No head is labelled yet."

    def alike(space: str) -> str:
        return f"{of}/alike?{urlencode({'in': space})}"

    return (
        Analysis(
            "Images alike in a property",
            f"Nearest in all heads that carry {property or 'a property'}, each centred and of one "
            "length.",
            alike(f"property:{property}" if property else f"head:{head}"),
            none,
            "" if labels else here.hint("label"),
        ),
        Analysis(
            "Where a head sees a text",
            f"A heat map of a text in what one head, such as {head}, writes from each patch.",
            f"{of}/maps?{urlencode({'text': text, 'heads': head})}",
        ),
        Analysis(
            "Where one text rather than another",
            "A heat map of the difference of two texts, over all heads that are chosen.",
            f"{of}/maps?{urlencode({'text': text, 'against': 'a picture'})}",
        ),
        Analysis(
            "Images alike in a head",
            f"Nearest to a picture in what one head, such as {head}, writes.",
            alike(f"head:{head}"),
        ),
        Analysis(
            "Images for a text in a head",
            f"Images of which one head, such as {head}, writes most along a text.",
            f"/s/{here.name}/text?{urlencode({'text': text, 'in': f'head:{head}'})}",
        ),
    )


@dataclass(frozen=True)
class Kind:
    """Results of a job.

    Attributes
    ----------
    job : str
    results : int
    last : str
        When the last one was finished or asked for, ISO 8601; empty where it is not known.
    """

    job: str
    results: int
    last: str


@dataclass(frozen=True)
class Subset:
    """Images whose means and covariances are kept.

    Attributes
    ----------
    where : str
        The condition; empty: all images.
    images : int
    """

    where: str
    images: int


@dataclass(frozen=True)
class Overview:
    """A store.

    Attributes
    ----------
    name, typed, model, weights, source, precision, store_dtype : str
    layers, heads, head_dim, width, embed, images, shards : int
    components : tuple of str
        What is kept of each image.
    extraction : ExtractionStatus
        What became of the images, and how far their parts are from the model's output.
    found, exact : str
        The same in a sentence each; ``exact`` is empty as long as no shard is finished.
    warned : tuple of str
        What warns of taking findings for more than they are.
    pictures : tuple of int
        Some images, spread evenly.
    matrix : Matrix
    colours : tuple of str
        What the matrix can be coloured by.
    subsets : tuple of Subset
    results : tuple of Kind
        By job, the latest first.
    lacking : dict of str to str
        Commands that find what is not there, by job.
    """

    name: str
    typed: str
    model: str
    weights: str
    source: str
    precision: str
    store_dtype: str
    layers: int
    heads: int
    head_dim: int
    width: int
    embed: int
    images: int
    shards: int
    components: tuple[str, ...]
    extraction: ExtractionStatus
    found: str
    exact: str
    warned: tuple[str, ...]
    pictures: tuple[int, ...]
    matrix: Matrix
    colours: tuple[str, ...]
    subsets: tuple[Subset, ...]
    results: tuple[Kind, ...]
    lacking: dict[str, str]


def overview(here: Opened, colour: str = "share") -> Overview:
    """What a store is, and what was found of it.

    Parameters
    ----------
    here : Opened
    colour : str
        What heads are coloured by: see `matrix.matrix`.

    Raises
    ------
    NotHere
        If there is no such colour.
    """
    meta = here.meta
    shown = matrix(here, colour)
    status = here.cached("extraction", lambda: extraction(here.store.data, meta, time.time()))
    kinds = here.cached("kinds of results", lambda: kinds_of(here))
    kept = here.cached("subsets", lambda: subsets(here))
    there = {kind.job for kind in kinds} | ({"reduce"} if kept else set())
    if status.shards_done == status.shards:
        there.add("extract")
    if here.cached("parts of the index", lambda: index(here.store)):
        there.add("index")
    return Overview(
        name=here.name,
        typed=here.typed,
        model=meta.architecture,
        weights=meta.weights,
        source=meta.source,
        precision=meta.precision,
        store_dtype=meta.store_dtype,
        layers=meta.layers,
        heads=meta.heads,
        head_dim=meta.head_dim,
        width=meta.width,
        embed=meta.embed,
        images=meta.images,
        shards=meta.shards,
        components=meta.components,
        extraction=status,
        found=sentences.images(status),
        exact="" if status.residual is None else sentences.exactness(status, meta),
        warned=(*notes.random_weights(meta), *notes.unfinished(status)),
        pictures=tuple(spread(range(meta.images), PICTURES)),
        matrix=shown,
        colours=choices(here),
        subsets=kept,
        results=kinds,
        lacking={j: said for j, said in here.hints().items() if j.replace("-", "_") not in there},
    )


def kinds_of(here: Opened) -> tuple[Kind, ...]:
    """Which results there are, by job, the latest first."""
    table = read_index(here.url)
    rows: Sequence[dict] = [] if table is None else table.to_pylist()
    found: dict[str, Kind] = {}
    for row in rows:
        before = found.get(row["job"], Kind(row["job"], 0, ""))
        last = max(before.last, row["asked"] or "")
        found[row["job"]] = Kind(row["job"], before.results + 1, last)
    return tuple(sorted(found.values(), key=lambda kind: kind.last, reverse=True))


def subsets(here: Opened) -> tuple[Subset, ...]:
    """Of which images means and covariances are kept."""
    found = []
    for kept in all_reductions(here.url, here.meta):
        counts = [kept.count(name) for name in kept.facts.shards if name != "patches"]
        found.append(Subset(kept.facts.where or "", max(counts, default=0)))
    return tuple(found)
