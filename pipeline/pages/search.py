"""Sections of the page: images that searches found, beside what was searched for."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from PIL import Image

from pipeline.images.decode import decode
from pipeline.search.found import NEAREST, RANDOM_HEADS, RANDOM_IMAGES, Found
from pipeline.telling import several
from storage import urls
from storage.results import Result
from storage.store import Store

from . import notes
from .extraction import thumbnail
from .fragments import render
from .html import Made, Section, page, section
from .pictures import SIDE, picture

# Queries that are shown in pictures, and images of each.
SHOWN, ACROSS = 8, 10
Pictures = Mapping[str, bytes]
# Of a table.
Row = Mapping[Any, Any]


def own_name(number: int) -> str:
    """The file of a query that is a picture."""
    return f"query-{number:03d}.png"


def own_pictures(found: Found, files: Pictures) -> dict[str, bytes]:
    """Those queries among the first that are picture files, small, by file name.

    Parameters
    ----------
    files : mapping of str to bytes
        By query.
    """
    kept = {}
    rows = found.queries[:SHOWN]
    for row in rows[rows["kind"] == "picture"].to_dict("records"):
        image, buffer = decode(files[row["query"]]), io.BytesIO()
        image.thumbnail((SIDE, SIDE))
        image.save(buffer, format="PNG")
        kept[own_name(row["number"])] = buffer.getvalue()
    return kept


def read_pictures(found: Found, result: Result) -> dict[str, bytes]:
    """The same from a result."""
    rows = found.queries[:SHOWN]
    names = [own_name(number) for number in rows.loc[rows["kind"] == "picture", "number"]]
    return {name: urls.read_bytes(urls.join(result.url, name)) for name in names}


def search_page(found: Found, store: Store, pictures: Pictures) -> str:
    """A page of its own."""
    meta = store.meta
    lead = f"By {meta.architecture} ({meta.weights}), among {meta.images:,} images, {meta.source}."
    shown = [search_section(found, store, pictures)]
    return page(title(found), lead, shown, notes.random_weights(meta))


def search_section(
    found: Found, store: Store, pictures: Pictures, name: str = "", made: Made | None = None
) -> Section:
    """The first queries, each with the images that were found.

    Parameters
    ----------
    pictures : mapping of str to bytes
        See `own_pictures`.
    name : str
        Its address in a page of several sections; on a page of its own it has none, and no title.
    """
    return section(
        title(found) if name else "",
        how(found),
        name=name,
        found=sentence(found),
        plot=[render("tiles.html", cases=_cases(found, store, pictures))],
        made=made,
    )


def _cases(
    found: Found, store: Store, pictures: Pictures
) -> list[tuple[str, list[tuple[Markup, str]]]]:
    """Title, and pictures with captions, of each of the first queries and series."""
    cases = []
    for query in found.queries[:SHOWN].to_dict("records"):
        rows = found.table[found.table["number"] == query["number"]]
        for series in (NEAREST, RANDOM_HEADS, RANDOM_IMAGES):
            of = rows[rows["series"] == series][:ACROSS]
            if of.empty and series != NEAREST:
                continue
            own = _own(query, store, pictures) if series == NEAREST else []
            tiles = [
                (picture(thumbnail(store, row["image"]), row["key"]), caption(row))
                for row in of.to_dict("records")
            ]
            heads = f" ({found.random_heads})" if series == RANDOM_HEADS else ""
            what = called(query) if series == NEAREST else f"{called(query)}: {series}{heads}"
            cases.append((what if len(of) else f"{what}: no image", [*own, *tiles]))
    return cases


def _own(query: Row, store: Store, pictures: Pictures) -> list[tuple[Markup, str]]:
    """What was searched for, where it can be seen."""
    if query["kind"] == "text":
        return []
    if query["kind"] == "image":
        image = thumbnail(store, query["image"])
    else:
        image = Image.open(io.BytesIO(pictures[own_name(query["number"])]))
    return [(picture(image, called(query)), "the query")]


# -- words ---------------------------------------------------------------------------------


def title(found: Found) -> str:
    return f"Nearest in {found.space}"


def called(query: Row) -> str:
    """A query, in words."""
    return f"“{query['query']}”" if query["kind"] == "text" else f"{query['kind']} {query['query']}"


def caption(row: Row) -> str:
    named = row["label"] or row["key"]
    return f"{row['score']:.3f}, {named}"


def sentence(found: Found) -> str:
    """What was searched for, and how much of it is shown."""
    queries = len(found.queries)
    of_property = "" if found.property is None else f", which carry the label {found.property!r}"
    some = "" if queries <= SHOWN else f" The first {SHOWN} are shown, all are in the table."
    images = found.table.loc[found.table["series"] == NEAREST, "image"].nunique()
    return (
        f"{several(images, 'image')} found for {queries:,} {'query' if queries == 1 else 'queries'}"
        f" in {found.space}{of_property}.{some}"
    )


def how(found: Found) -> str:
    """How images were compared."""
    measure = "cosine" if found.metric == "cosine" else "inner product"
    centred = ", less its mean over all images" if found.centred else ""
    said = [
        f"Below each image, the {measure} of what was written of it and of the query{centred}; an "
        "image is not found as its own query."
    ]
    if found.recall is not None:
        said.append(f"The search is approximate: {found.approximate()}.")
    if found.where is not None:
        said.append(f"Only images where {found.where} could be found.")
    if (found.table["series"] == RANDOM_IMAGES).any():
        said.append("Random images are drawn anew for each query.")
    return " ".join(said)
