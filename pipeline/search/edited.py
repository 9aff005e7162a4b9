"""Search in edited embeddings: exact, from the store itself, as no index knows an edit.

An image's edited embedding needs the parts that the edit takes from, so all of the store is read,
where an index is read for a single part: as slow as a scan of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster.tasks import scan
from pipeline.heads.edits import Edit, edited_embedding, edited_mean
from pipeline.heads.studies import maps_of, shard_parts
from pipeline.images.decode import decode
from pipeline.models import ModelMaps, VisionModel
from pipeline.subsets import shard_rows
from storage.reductions import Reductions
from storage.store import Store, open_store

from .choices import Metric
from .scan import Best, Nearest, Queries
from .vectors import PICTURES_AT_ONCE


def edited_vectors(store: Store, edit: Edit, images: Sequence[int]) -> NDArray[np.float32]:
    """Edited embeddings of images of a store that are ok, (images, E), not centred."""
    maps, size = maps_of(store), store.meta.shard_size
    found = np.zeros((len(images), store.meta.embed), np.float32)
    for shard in sorted({image // size for image in images}):
        chosen = np.isin(np.arange(*store.meta.rows(shard)), images)
        for numbers, parts in shard_parts(store, shard, chosen):
            edited = edited_embedding(parts, edit, maps)
            for place, image in enumerate(images):
                if image in numbers:
                    found[place] = edited[np.searchsorted(numbers, image)]
    return found


def picture_vectors(
    model: VisionModel, edit: Edit, pictures: Sequence[bytes]
) -> NDArray[np.float32]:
    """Picture files, each passed once through the store's model, (pictures, E), not centred."""
    import torch

    from pipeline.heads.edited import EditedModel

    embed, found = EditedModel(model, edit), []
    for first in range(0, len(pictures), PICTURES_AT_ONCE):
        some = pictures[first : first + PICTURES_AT_ONCE]
        pixels = np.stack([model.preprocess.to_uint8(decode(picture)) for picture in some])
        images = model.preprocess.to_tensor(torch.from_numpy(pixels).to(model.device))
        found.append(embed(images).float().cpu().numpy())
    return np.concatenate(found)


def nearest_edited(
    store: Store,
    edit: Edit,
    queries: Queries,
    reductions: Reductions,
    *,
    metric: Metric,
    top: int,
    where: str | None = None,
    centred: bool = True,
    report: Callable[[int], None] = lambda shards: None,
) -> Nearest:
    """The images whose edited embeddings are most like the queries.

    Parameters
    ----------
    store : Store
    edit : Edit
        Of this store's model.
    queries : Queries
        In the joint space, (Q, E): images edited and not centred, texts of length 1.
    reductions : Reductions
        Of heads, mlps and embedding of all images: their edited mean is taken from images.
    metric, top, centred
        As of ``scan.nearest``.
    where : str, optional
        Which images may be found.
    report : callable
        Called with the number of shards looked at so far.
    """
    mean_e = edited_mean(store, reductions, edit) if centred else np.zeros(store.meta.embed)
    vectors_qe = queries.vectors_qw.astype(np.float64)
    vectors_qe[~queries.are_texts_q] -= mean_e
    if metric == "cosine":
        lengths_q = np.linalg.norm(vectors_qe, axis=1)
        vectors_qe /= np.where(lengths_q > 0, lengths_q, 1.0)[:, None]
    search = _Search(store.url, edit, maps_of(store), mean_e, vectors_qe, metric, top, where)
    waves = []
    for done, wave in scan(_scan_shard, sorted(store.done_shards()), _merge, search):
        waves.append(wave)
        report(done)
    return _merge(waves).nearest()


@dataclass(frozen=True, eq=False)
class _Search:
    """All that a task has to know."""

    url: str
    edit: Edit
    maps: ModelMaps
    mean_e: NDArray[np.float64]
    vectors_qe: NDArray[np.float64]
    metric: Metric
    top: int
    where: str | None


def _scan_shard(search: _Search, shard: int) -> Best:
    store = open_store(search.url)
    best = Best(len(search.vectors_qe), search.top, 1)
    _, chosen = shard_rows(store, shard, search.where)
    for numbers, parts in shard_parts(store, shard, chosen):
        edited_be = edited_embedding(parts, search.edit, search.maps) - search.mean_e
        if search.metric == "cosine":
            lengths_b = np.linalg.norm(edited_be, axis=1)
            edited_be /= np.where(lengths_b > 0, lengths_b, 1.0)[:, None]
        first, last = int(numbers[0]), int(numbers[-1])
        scores_qn = np.full((len(search.vectors_qe), last - first + 1), -np.inf, np.float32)
        scores_qn[:, numbers - first] = search.vectors_qe @ edited_be.T
        best.add(scores_qn, first)
    best.settle()
    return best


def _merge(states: Sequence[Best]) -> Best:
    total = Best(states[0].queries, states[0].top, 1)
    for state in states:
        total.take(state)
    total.settle()
    return total
