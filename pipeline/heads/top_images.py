"""Which images a head writes most of each of its texts for: one scan for all heads and texts.

Gandelsman 2025, Figures 2.4 and A.5: ⟨what the head wrote, text⟩ on the published scale. The head's
mean is not removed, as it would move all images alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.cluster import machines, pace
from pipeline.cluster.tasks import scan
from pipeline.stats.reductions import READ_BYTES, image_scales
from pipeline.stats.top import Top, merge_top, top
from pipeline.subsets import chosen_rows, shard_rows
from pipeline.telling import SILENT, Teller, several
from storage import urls
from storage.layout import CONTRIBUTIONS
from storage.store import Store, open_store

from .choices import Head

# Which coordinates a head's texts have in what it writes: (texts, head_dim) float64.
Directions = Mapping[Head, np.ndarray]


def description_images(
    store: Store,
    descriptions: pd.DataFrame,
    texts: Mapping[str, np.ndarray],
    most: int,
    shards: Sequence[int],
    where: str | None = None,
    teller: Teller = SILENT,
) -> pd.DataFrame:
    """The images that each head writes most of its texts for.

    Parameters
    ----------
    store : Store
    descriptions : DataFrame
        TextSpan's: layer, head, rank, text.
    texts : mapping of str to (E,) float
        Embeddings of the texts.
    most : int
        Images of each text.
    shards : sequence of int
        Which are read.
    where : str, optional
        Which of their images count.
    teller : Teller

    Returns
    -------
    DataFrame
        As ``heads.tables.DESCRIPTIONS`` has ``images``.
    """
    named = descriptions.sort_values(["layer", "head", "rank"])
    head_map = store.model()["head_map"].values.astype(np.float64)
    directions: dict[Head, np.ndarray] = {}
    for layer, head in named[["layer", "head"]].drop_duplicates().to_numpy().tolist():
        own = named.loc[(named["layer"] == layer) & (named["head"] == head), "text"]
        rows_me = np.stack([texts[text] for text in own]).astype(np.float64)
        directions[layer, head] = rows_me @ head_map[layer, head].T
    seconds = pace.of_shards(store.meta, len(shards))
    machines.settle(seconds, f"{several(len(shards), 'shard')} to read", teller.say)
    state: Top | None = None
    with teller.bar("images of texts: shards", len(shards)) as move:
        merged = partial(_merged, most)
        for count, wave in scan(text_states, shards, merged, store.url, where, directions, most):
            state = wave if state is None else merged([state, wave])
            move(count)
    assert state is not None  # reductions, which come first, refuse a store without shards
    text, place = np.nonzero(state.index >= 0)
    images = state.index[text, place]
    rows = store.some_images(images)
    at = np.searchsorted(rows["index"].to_numpy(), images)
    return pd.DataFrame(
        {
            **{name: named[name].to_numpy()[text] for name in ("layer", "head", "rank")},
            "place": place,
            "image": images,
            "key": rows["key"].take(pa.array(at)).to_pylist(),
            "score": state.value[text, place],
        }
    )


def _merged(most: int, states: Sequence[Top]) -> Top:
    return merge_top(states, most)


def text_states(url: str, where: str | None, directions: Directions, most: int, shard: int) -> Top:
    """The images of one shard: a row a text, head by head."""
    store = open_store(url)
    _, chosen = shard_rows(store, shard, where)
    start, stop = store.meta.rows(shard)
    data = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    scale = image_scales(data, start, stop)[1]
    texts = sum(len(rows) for rows in directions.values())
    found = [Top(np.full((texts, 0), -1), np.zeros((texts, 0)))]
    step = max(1, READ_BYTES // store.arrays["heads"].bytes_per_row)
    for numbers, read in chosen_rows(data, ["heads"], start, chosen, step):
        heads = read["heads"]
        scores = np.concatenate(
            [rows @ heads[:, layer, head].T for (layer, head), rows in directions.items()]
        )
        found.append(top(scores / scale[numbers - start], most, numbers))
    return merge_top(found, most)
