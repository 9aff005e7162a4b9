"""Two models over the same images: heads that are alike, and a map between their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cluster.tasks import scan
from pipeline.heads.choices import Head
from pipeline.heads.describe import description_table
from pipeline.heads.textspan import textspan
from pipeline.stats.moments import combine
from pipeline.telling import SILENT, Teller
from storage.errors import FacetError
from storage.store import Store

from .common import Common
from .crossed import Block, Crossed, blocks, merge, shard_state
from .likeness import likeness, side
from .ridge import RidgeMap, ridge_map
from .tables import ALIGNED

Array = NDArray[np.float64]
# Canonical correlations of so few images a dimension are high by chance alone.
FEW = 10


@dataclass(frozen=True, eq=False)
class Aligned:
    """What was found of two models.

    Attributes
    ----------
    pairs : DataFrame
        As ``ALIGNED`` has it.
    map : RidgeMap
        From the embedding of `from` to that of `to`.
    embedding_cka : float
        Of the embeddings themselves, over the images that made the map.
    covariances : dict of (layer, head) to (K, K) float64
        Of the heads of `to` that were crossed.
    images, absent, lost : int
        That were used; of the subset that are not in `from`; that are bad or not finished there.
    """

    pairs: pd.DataFrame
    map: RidgeMap
    embedding_cka: float
    covariances: dict[Head, Array]
    images: int
    absent: int
    lost: int


def align(
    source: Store,
    target: Store,
    common: Common,
    from_layers: Sequence[int],
    to_layers: Sequence[int],
    where: str | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Aligned:
    """Hold the heads of two models against each other, and map one embedding to the other.

    Parameters
    ----------
    source, target : Store
        `from` and `to`.
    common : Common
        Where the images of `to` stand in `from`.
    from_layers, to_layers : sequence of int
        Whose heads are held against each other.
    where : str, optional
        Which images, by columns of the image table of `to`.
    report : callable
        Called with the number of shards read so far, of all scans.

    Raises
    ------
    FacetError
        If too few images are ok in both.
    """
    maps = [store.model()["head_map"].values.astype(np.float64) for store in (source, target)]
    shards, done = sorted(target.done_shards()), 0
    pairs: list[pd.DataFrame] = []
    covariances: dict[Head, Array] = {}
    whole: Crossed | None = None
    for block in blocks(source.meta, target.meta, from_layers, to_layers):
        state = _scanned(source, target, common, block, where, shards, lambda n: report(done + n))  # noqa: B023
        done += len(shards)
        whole = state if block.embeddings else whole
        if state.source.n < 2:
            raise FacetError(
                f"{state.source.n} images are ok both in `from` {source.url} and in `to` "
                f"{target.url}: it takes 2 at least, and many for figures that say something"
            )
        pairs.append(_pairs(block, state, maps))
        at = [(i, h) for i in block.target for h in range(target.meta.heads)]
        covariances |= dict(zip(at, state.target.m2 / state.target.n, strict=True))
    assert whole is not None  # the first block has them
    table = pd.concat(pairs, ignore_index=True).sort_values(
        ["from_layer", "from_head", "to_layer", "to_head"], ignore_index=True
    )
    found = ridge_map(whole.embeddings, source.meta.embed)
    return Aligned(
        table, found, _embedding_cka(whole, source.meta.embed), covariances, whole.source.n,
        whole.absent, whole.lost,
    )  # fmt: skip


def _scanned(
    source: Store,
    target: Store,
    common: Common,
    block: Block,
    where: str | None,
    shards: Sequence[int],
    report: Callable[[int], None],
) -> Crossed:
    total: Crossed | None = None
    given = (source.url, target.url, where, block, common.rows)
    for done, wave in scan(shard_state, shards, merge, *given):
        total = wave if total is None else merge([total, wave])
        report(done)
    assert total is not None  # a store of which nothing is finished is refused before
    return total


def _pairs(block: Block, state: Crossed, maps: Sequence[Array]) -> pd.DataFrame:
    """Rows of the table ``pairs`` of one block."""
    sides, places = [], []
    for layers, moments, head_map in zip(
        (block.source, block.target), (state.source, state.target), maps, strict=True
    ):
        sides.append(side(moments, head_map[list(layers)].reshape(-1, *head_map.shape[2:])))
        places.append(np.array([(i, h) for i in layers for h in range(head_map.shape[1])]))
    found = likeness(sides[0], sides[1], state.cross)
    p, q = np.indices(found.cka.shape).reshape(2, -1)
    values = [*places[0][p].T, *places[1][q].T]
    values += [of.ravel() for of in (found.cka, found.cca, found.cca_largest)]
    return pd.DataFrame(dict(zip(ALIGNED["pairs"].names, values, strict=True)))


def _embedding_cka(state: Crossed, width: int) -> float:
    """CKA of both unit embeddings, over all images."""
    m2 = combine(state.embeddings).m2
    own = np.linalg.norm(m2[:width, :width]) * np.linalg.norm(m2[width:, width:])
    return float((m2[:width, width:] ** 2).sum() / own) if own else float("nan")


def mapped_texts(
    target: Store,
    found: Aligned,
    texts_me: Array,
    texts: Sequence[str],
    rounds: int,
    teller: Teller = SILENT,
) -> pd.DataFrame:
    """TextSpan on the heads of `to`, with texts of `from` brought there by the map.

    Parameters
    ----------
    target : Store
    found : Aligned
    texts_me : (M, E) float
        Embeddings of the pool by the model of `from`.
    texts : sequence of str
    rounds : int
        Texts of each head.
    teller : Teller

    Returns
    -------
    DataFrame
        ``ALIGNED["texts"]``; ``r2`` is the map's, on held-out images, along the text's direction.
    """
    directions_mf = found.map.texts(texts_me)
    r2 = pd.Series(found.map.r2_along(directions_mf), index=list(texts))
    head_map = target.model()["head_map"].values.astype(np.float64)
    tables = []
    with teller.bar("heads", len(found.covariances)) as move:
        for at, covariance in found.covariances.items():
            one = textspan(covariance[None], head_map[None, *at], directions_mf, rounds)
            tables.append(description_table(one, [at], texts))
            move(len(tables))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(r2=r2.loc[table["text"]].to_numpy())


def doubts(images: int, head_dims: int, r2: float) -> list[str]:
    """What leaves an alignment unsure.

    Parameters
    ----------
    images : int
    head_dims : int
        Dimensions of a head of each model together.
    r2 : float
        Of the map.
    """
    said = []
    if images < FEW * head_dims:
        said.append(
            f"canonical correlations over {images:,} images are high by chance: heads have "
            f"{head_dims} dimensions together, and it takes {FEW} images for each"
        )
    if not r2 >= 0.1:
        said.append(
            f"on held-out images the map foretells {r2:.0%} of the embedding's variance: texts "
            "that go through it say next to nothing"
        )
    return said
