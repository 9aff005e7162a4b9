"""The recipe of ``facet search``: what is nearest to queries, from the index."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from humanize import naturalsize

from jobs.console import TELLER, console
from jobs.scaffold import found_or_made, save, show_done
from jobs.search import Asked, SearchConfig
from jobs.settings import command
from jobs.steps import embedded, indexed, opened, reduced
from pipeline.cluster.room import refuse_room
from pipeline.heads.edits import Edit, edits_digest
from pipeline.identity import over
from pipeline.labels.found import heads_with
from pipeline.pages import tables
from pipeline.search.choices import Space, refuse_parts
from pipeline.search.found import (
    NEAREST,
    RANDOM_HEADS,
    RANDOM_IMAGES,
    SEARCH,
    Found,
    edited_name,
    space_name,
)
from pipeline.search.vectors import refuse_nothing
from pipeline.telling import several
from storage import urls
from storage.results import Result
from storage.store import Store

JOB = "search"
PAGE = "search.html"


@dataclass(frozen=True, eq=False)
class SearchRun:
    """What was found."""

    result: Result
    found: Found


def run(config: SearchConfig, asked: Asked) -> SearchRun:
    """Make what is missing, search, or find what was found before; print it."""
    started = time.monotonic()
    store = opened(config.store)
    space = asked.space
    if config.property is not None:
        space = replace(space, heads=heads_with(store, config.property))
        refuse_parts(store.url, store.meta, space)
    refuse_nothing(store, list(asked.images.values()))
    identity = {
        "over": over(store),
        "queries": [[q.kind, content(asked, i)] for i, q in enumerate(asked.queries)],
        "parts": list(space.parts),
        # The same heads may carry another label the next time.
        "property": config.property,
        "metric": config.metric,
        "centred": config.centred,
        "top": config.top,
        "where": config.where,
        "random": config.random,
    }
    if config.approximate:
        identity["approximate"] = True
    if asked.edit is not None:
        identity["edit"] = edits_digest([asked.edit])
    result = found_or_made(
        store.url, JOB, identity, lambda: find(config, asked, store, space, identity)
    )
    found = Found.of(result)
    console.print(tables.searched(found))
    facts = {
        "queries": f"{len(found.queries):,}",
        "compared in": found.space,
        "page": urls.join(result.url, PAGE),
    }
    if found.recall is not None:
        facts["recall"] = found.approximate()
    if found.random_heads:
        facts["random heads"] = found.random_heads
    following = command("report", store=config.store)
    show_done(facts, time.monotonic() - started, result, following)
    return SearchRun(result, found)


def content(asked: Asked, number: int) -> str | int:
    """What a query is, wherever it was found."""
    query = asked.queries[number]
    if query.kind == "image":
        return asked.images[query]
    if query.kind == "picture":
        return hashlib.sha256(asked.pictures[query]).hexdigest()
    return query.asked


def find(
    config: SearchConfig, asked: Asked, store: Store, space: Space, identity: dict[str, Any]
) -> Result:
    """Search, and keep what is found with a page of it."""
    # What was found before is shown without torch.
    from pipeline.pages.search import own_pictures, search_page
    from pipeline.search import chance
    from pipeline.search.coordinates import Coordinates
    from pipeline.search.scan import chosen_images

    urls.check_writable(store.url)
    other = Space(())
    if config.random and space.heads:
        drawn = chance.random_heads(space, store.meta.layers, store.meta.heads)
        other = Space(drawn, space.blocks) if drawn else other
    if asked.edit is None:
        indexed(store, Space((*space.heads, *other.heads), space.blocks, space.embedding))
    own = [asked.images.get(query) for query in asked.queries]
    chosen = chosen_images(store, config.where)
    look = Look(config, asked, store)
    recall = None
    if config.approximate:
        lists = listed(store, space, config)
        recall = measured(lists, config.top)
        series = {NEAREST: look.nearest_of(lists, own)}
    elif asked.edit is None:
        series = {NEAREST: look.nearest(space, own, chosen)}
    else:
        series = {NEAREST: look.nearest_edited(asked.edit, own)}
    if config.random:
        queries = look.queries(space)
        series[RANDOM_IMAGES] = chance.random_images(
            store, Coordinates.of(store, space), queries, own,
            metric=config.metric, top=look.top, chosen=chosen, centred=config.centred,
        )  # fmt: skip
    if other.heads:
        series[RANDOM_HEADS] = look.nearest(other, own, chosen)
    found = Found(
        space=space_name(space) if asked.edit is None else edited_name(asked.edit.name),
        metric=config.metric,
        centred=config.centred,
        property=config.property,
        where=config.where,
        random_heads=space_name(other),
        queries=chance.query_table(asked.queries, own),
        table=chance.table_of(store, asked.queries, series),
        recall=recall,
    )
    pictures = own_pictures(found, {q.asked: data for q, data in asked.pictures.items()})
    return save(
        store.url, JOB, config, found.facts() | {"images": store.meta.images},
        identity=identity,
        tables={"queries": found.queries, "found": found.table},
        schemas=SEARCH,
        files={**pictures, PAGE: search_page(found, store, pictures).encode()},
    )  # fmt: skip


def listed(store: Store, space: Space, config: SearchConfig) -> Any:
    """The lists of an approximate search, made or made anew where they are not of these rows."""
    from pipeline.search.approximate import Lists

    lists = Lists(store, space, config.metric, config.centred)
    if lists.facts() is None:
        need, images = lists.bytes(), store.meta.images
        refuse_room(store.url, need, "leave out `approximate`")
        console.print(f"listing {images:,} images: about {naturalsize(need)} to write")
        with TELLER.bar("images", 2 * images) as move:
            lists.build(move)
    return lists


def measured(lists: Any, top: int) -> dict[str, Any]:
    """The recall of an approximate search, which takes a scan the first time."""
    from pipeline.cluster import machines
    from pipeline.search import scan

    images = lists.store.meta.images
    said = f"{images:,} images to measure recall on"
    machines.settle(scan.seconds(lists.store, lists.space), said, TELLER.say)
    with TELLER.bar("images", images) as move:
        return asdict(lists.recall(top, move))


class Look:
    """Searches for the same queries in one space after the other: the model is loaded once.

    Parameters
    ----------
    config : SearchConfig
    asked : Asked
    store : Store
    """

    def __init__(self, config: SearchConfig, asked: Asked, store: Store) -> None:
        from pipeline.texts.encoding import TextEncoder

        self.config, self.asked, self.store = config, asked, store
        self.encoder = TextEncoder(store, config.pretrained)
        self.top = min(config.top, store.meta.images)
        self._of_spaces: dict[Space, Any] = {}

    def queries(self, space: Space) -> Any:
        """The queries in the coordinates of a space."""
        from pipeline.search.coordinates import Coordinates
        from pipeline.search.vectors import image_vectors, picture_vectors

        if space in self._of_spaces:
            return self._of_spaces[space]
        coordinates = Coordinates.of(self.store, space)
        self._of_spaces[space] = self._queries(
            coordinates.width,
            lambda images: image_vectors(self.store, coordinates, images),
            lambda model, pictures: picture_vectors(model, coordinates, pictures),
            coordinates.texts,
        )
        return self._of_spaces[space]

    def _queries(self, width: int, images: Any, pictures: Any, texts: Any) -> Any:
        """All queries in their order, by what makes rows of each kind."""
        from pipeline.search.scan import Queries

        asked = self.asked
        vectors = np.zeros((len(asked.queries), width), np.float32)
        at = {
            kind: [i for i, query in enumerate(asked.queries) if query.kind == kind]
            for kind in ("image", "picture", "text")
        }
        if of_kind := [asked.queries[i] for i in at["image"]]:
            vectors[at["image"]] = images([asked.images[query] for query in of_kind])
        if of_kind := [asked.queries[i] for i in at["picture"]]:
            model = self.encoder.model("sees the pictures", TELLER)
            vectors[at["picture"]] = pictures(model, [asked.pictures[query] for query in of_kind])
        if given := [asked.queries[i].asked for i in at["text"]]:
            self.encoder.refuse_long(given)
            rows = embedded(self.encoder, "texts of a search", given).embeddings
            vectors[at["text"]] = texts(rows)
        return Queries(vectors, np.array([query.kind == "text" for query in asked.queries]))

    def nearest_edited(self, edit: Edit, own: Sequence[int | None]) -> Any:
        """What is nearest in edited embeddings, less the images that queries are."""
        from pipeline.cluster import machines, pace
        from pipeline.search import edited
        from pipeline.search.chance import without_own

        config, store = self.config, self.store
        queries = self._queries(
            store.meta.embed,
            lambda images: edited.edited_vectors(store, edit, images),
            lambda model, pictures: edited.picture_vectors(model, edit, pictures),
            lambda rows: rows,
        )
        reductions = reduced(store, None, ("heads", "mlps", "embedding"))
        shards = len(store.done_shards())
        said = f"{several(shards, 'shard')} to search"
        machines.settle(pace.of_shards(store.meta, shards), said, TELLER.say)
        more = self.top + any(image is not None for image in own)
        with TELLER.bar("shards", shards) as move:
            found = edited.nearest_edited(
                store, edit, queries, reductions, metric=config.metric, top=more,
                where=config.where, centred=config.centred, report=move,
            )  # fmt: skip
        return without_own(found, own, self.top)

    def nearest_of(self, lists: Any, own: Sequence[int | None]) -> Any:
        """What is nearest by approximate lists, less the images that queries are."""
        from pipeline.search.chance import without_own

        more = self.config.top + any(image is not None for image in own)
        return without_own(lists.nearest(self.queries(lists.space), more), own, self.config.top)

    def nearest(self, space: Space, own: Sequence[int | None], chosen: Any) -> Any:
        """What is nearest in a space, less the images that queries are."""
        from pipeline.cluster import machines
        from pipeline.search import scan
        from pipeline.search.chance import without_own

        config, images = self.config, self.store.meta.images
        queries = self.queries(space)
        more = self.top + any(image is not None for image in own)
        machines.settle(scan.seconds(self.store, space), f"{images:,} images to search", TELLER.say)
        with TELLER.bar("images", images) as move:
            found = scan.nearest(
                self.store, space, queries, metric=config.metric, top=more, chosen=chosen,
                centred=config.centred, report=move,
            )  # fmt: skip
        return without_own(found, own, self.top)
