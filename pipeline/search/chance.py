"""What a search found as a table; what chance would have found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.heads.choices import Head
from storage import head_index, urls
from storage.layout import CONTRIBUTIONS
from storage.store import Store

from .choices import Metric, Space
from .coordinates import Coordinates
from .queries import Query
from .scan import Chosen, Nearest, Queries
from .vectors import image_vectors

# Of random images and heads.
SEED = 0
# Random images are drawn from so many, at least.
POOL = 512


def without_own(nearest: Nearest, own: Sequence[int | None], top: int) -> Nearest:
    """The first ``top`` of every query, less the image that the query is.

    Parameters
    ----------
    nearest : Nearest
        Of one more.
    own : sequence of int or None
        By query.
    """
    rows = np.full((len(own), top), -1, np.int64)
    scores = np.full((len(own), top), np.nan, np.float32)
    for query, image in enumerate(own):
        found = nearest.rows_qk[query]
        kept = np.flatnonzero((found >= 0) & (found != (-1 if image is None else image)))[:top]
        rows[query, : len(kept)] = nearest.rows_qk[query, kept]
        scores[query, : len(kept)] = nearest.scores_qk[query, kept]
    return Nearest(rows, scores)


def query_table(queries: Sequence[Query], own: Sequence[int | None]) -> pd.DataFrame:
    """A row a query, as ``SEARCH`` has it; -1 where it is no image of the store."""
    return pd.DataFrame(
        {
            "number": range(len(queries)),
            "kind": [query.kind for query in queries],
            "query": [query.asked for query in queries],
            "image": [-1 if image is None else image for image in own],
        }
    )


def table_of(store: Store, queries: Sequence[Query], series: dict[str, Nearest]) -> pd.DataFrame:
    """A row for every image that was found, as ``SEARCH`` has it."""
    frames = []
    for name, found in series.items():
        number, rank = np.nonzero(found.rows_qk >= 0)
        frames.append(
            pd.DataFrame(
                {
                    "number": number,
                    "kind": [queries[int(i)].kind for i in number],
                    "query": [queries[int(i)].asked for i in number],
                    "series": name,
                    "rank": rank,
                    "image": found.rows_qk[number, rank],
                    "score": found.scores_qk[number, rank].astype(np.float64),
                }
            )
        )
    table = pd.concat(frames, ignore_index=True)
    if table.empty:
        return table.assign(key="", uri="", label="")
    images = table["image"].to_numpy(np.int64)
    rows = store.some_images(images)
    at = pa.array(np.searchsorted(rows["index"].to_numpy(), images))
    for column in ("key", "uri", "label"):
        table[column] = rows[column].take(at).to_pylist()
    order = table["series"].map({name: at for at, name in enumerate(series)})
    table = table.assign(_order=order).sort_values(["number", "_order", "rank"], kind="stable")
    return table.drop(columns="_order").reset_index(drop=True)


# -- what is found by chance ---------------------------------------------------------------


def random_heads(space: Space, layers: int, heads: int) -> tuple[Head, ...]:
    """As many heads, drawn from the others of the same layers; from all others where these do not
    suffice; none where there are too few at all."""
    rng = np.random.default_rng(SEED)
    every = [(layer, head) for layer in range(layers) for head in range(heads)]
    for among in ({layer for layer, _ in space.heads}, set(range(layers))):
        others = [at for at in every if at not in space.heads and at[0] in among]
        if len(others) >= len(space.heads):
            drawn = rng.choice(len(others), len(space.heads), replace=False)
            return tuple(others[i] for i in sorted(drawn))
    return ()


def random_images(
    store: Store,
    coordinates: Coordinates,
    queries: Queries,
    own: Sequence[int | None],
    *,
    metric: Metric,
    top: int,
    chosen: Chosen | None,
    centred: bool,
) -> Nearest:
    """Images drawn at random for every query, with their scores: what `nearest` is held against.

    Parameters
    ----------
    own : sequence of int or None
        The image that a query is, which is not drawn for it.
    """
    rng = np.random.default_rng(SEED)
    may = np.arange(store.meta.images) if chosen is None else np.flatnonzero(chosen)
    pool = np.sort(rng.choice(may, min(len(may), max(POOL, 2 * top)), replace=False))
    data = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    pool = pool[np.isfinite(np.asarray(data["ln_std"].oindex[pool]))]  # type: ignore[union-attr]
    scores_qn = _scores(store, coordinates, queries, pool, metric, centred)
    rows = np.full((len(own), top), -1, np.int64)
    scores = np.full((len(own), top), np.nan, np.float32)
    for query, image in enumerate(own):
        drawn = rng.permutation(len(pool))
        drawn = drawn[pool[drawn] != (-1 if image is None else image)][:top]
        rows[query, : len(drawn)] = pool[drawn]
        scores[query, : len(drawn)] = scores_qn[query, drawn]
    return Nearest(rows, scores)


def _scores(
    store: Store,
    coordinates: Coordinates,
    queries: Queries,
    images: NDArray[np.int64],
    metric: Metric,
    centred: bool,
) -> NDArray[np.float64]:
    """Scores of some images, (queries, images), as `nearest` has them."""
    facts = head_index.open_parts(store, coordinates.space.parts).values()
    mean = np.concatenate([f.mean() for f in facts]) if centred else 0.0
    vectors = queries.vectors_qw.astype(np.float64)
    vectors[~queries.are_texts_q] -= mean
    rows = image_vectors(store, coordinates, images.tolist()).astype(np.float64) - mean
    if metric == "dot":
        return vectors @ rows.T
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[queries.are_texts_q] = np.sqrt(len(facts))
    divisor = np.outer(lengths, np.linalg.norm(rows, axis=1))
    return vectors @ rows.T / np.where(divisor > 0, divisor, 1.0)
