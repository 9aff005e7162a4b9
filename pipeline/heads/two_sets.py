"""Two sets of images in words: where their means differ, and texts along the difference.

All of it follows from the moments of the two sets. On the published scale contributions sum to the
unit embedding, so the differences of the parts' means sum to that of the embeddings, and each part
has its share of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.cluster.tasks import each
from pipeline.stats.choices import available_components
from pipeline.subsets import shard_rows
from pipeline.telling import SILENT, Teller, several
from storage.errors import FacetError
from storage.reductions import Reductions
from storage.store import Store, open_store

from .choices import Head
from .tables import TWO_SETS

# Components that are compared, and what a row of `parts` that has no layer or head has there.
COMPARED, NONE = ("heads", "mlps", "embedding"), -1
# Of the squared length that a text or a difference had: less than this is rounding.
_SPENT = 1e-10
# Products this close (relative) are one and the same, so that the lowest index wins.
_TIE = 1e-10
# Less variance than this share of the largest a part has is rounding, too.
_NO_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Part:
    """One head, block or the embedding, over both sets.

    Attributes
    ----------
    component : str
        ``heads``, ``mlps`` or ``embedding``.
    layer, head : int
        A block's number stands in ``layer``; -1 where there is none.
    map_ke : (K, E) float64
        From its own coordinates to the joint space.
    difference_e : (E,) float64
        Mean over set a less mean over set b, in the joint space.
    within_kk : tuple of two (K, K) float64
        Covariances inside a and inside b, in its own coordinates.
    """

    component: str
    layer: int
    head: int
    map_ke: np.ndarray
    difference_e: np.ndarray
    within_kk: tuple[np.ndarray, np.ndarray]

    def distance(self) -> float:
        """Length of the difference."""
        return float(np.linalg.norm(self.difference_e))

    def chance(self, counts: tuple[int, int]) -> float:
        """The length that means of so many images would differ by (root mean square) if both sets
        were drawn from one: √(tr Σ_a/n_a + tr Σ_b/n_b)."""
        gram_kk = self.map_ke @ self.map_ke.T
        traces = (np.einsum("ij,ji->", s, gram_kk) for s in self.within_kk)
        return float(np.sqrt(sum(max(t, 0.0) / n for t, n in zip(traces, counts, strict=True))))

    def fisher(self) -> float:
        """Fisher's ratio along the difference Δ, ‖Δ‖⁴ / Δᵀ Σ_within Δ, Σ_within the mean of both
        sets'; NaN where neither set varies along it.

        It is the ratio of Fisher (1936) for this one direction: no inverse of a covariance whose
        rank the images may not fill, and nothing gained by a head's many other dimensions.
        """
        within_kk = sum(self.within_kk) / 2
        along_k = self.map_ke @ self.difference_e
        variance, gram_kk = along_k @ within_kk @ along_k, self.map_ke @ self.map_ke.T
        squared = float(self.difference_e @ self.difference_e)
        total = squared * float(np.einsum("ij,ji->", within_kk, gram_kk))
        return squared**2 / variance if variance > _NO_VARIANCE * total else float("nan")


def parts(store: Store, a: Reductions, b: Reductions, heads: Sequence[Head]) -> Iterator[Part]:
    """The parts of a model, one at a time: some heads, every block, the embedding.

    Parameters
    ----------
    store : Store
    a, b : Reductions
        Of the two sets, with all of ``compared``.
    heads : sequence of (layer, head)
    """
    model, both = store.model(), (a, b)

    def part(component: str, layer: int, head: int, at: tuple[int, ...], maps: np.ndarray) -> Part:
        means = [r.array(f"{component}_mean")[at].values for r in both]
        within = [r.array(f"{component}_covariance")[at].values for r in both]
        lifted = (means[0] - means[1]) @ maps
        return Part(component, layer, head, maps, lifted, (within[0], within[1]))

    head_map = model["head_map"].values.astype(np.float64)
    for at in heads:
        yield part("heads", *at, at, head_map[at])
    if "mlps" in store.meta.components:
        mlp_map = model["mlp_map"].values.astype(np.float64)
        for block in range(store.meta.layers + 1):
            yield part("mlps", block, NONE, (block,), mlp_map)
    yield part("embedding", NONE, NONE, (), np.eye(store.meta.embed))


def compared(store: Store) -> tuple[str, ...]:
    """Components whose moments a comparison needs."""
    return tuple(c for c in COMPARED if c in available_components(store.meta))


def parts_row(part: Part, whole_e: np.ndarray, counts: tuple[int, int]) -> dict[str, Any]:
    """A row of the table ``parts``; ``whole_e`` is the difference of the embeddings."""
    return {
        "component": part.component,
        "layer": part.layer,
        "head": part.head,
        "distance": part.distance(),
        "chance": part.chance(counts),
        "fisher": part.fisher(),
        "share": float(part.difference_e @ whole_e / (whole_e @ whole_e)),
    }


@dataclass(frozen=True)
class TextAlong:
    """A text along a difference.

    Attributes
    ----------
    text : int
        Its row.
    towards_a : bool
        Whether what is left of the difference points to its side of the pool's mean.
    explained, cumulative : float
        Share of the squared length of the difference that its direction adds, and all so far.
    """

    text: int
    towards_a: bool
    explained: float
    cumulative: float


def along(
    difference_e: np.ndarray, map_ke: np.ndarray, texts_me: np.ndarray, rounds: int
) -> list[TextAlong]:
    """TextSpan on the rank-one covariance ΔΔᵀ of a difference.

    Each round picks the text with the largest squared product with what is left of the difference,
    and takes its direction out of the difference and of all texts, as Algorithm 1 of Gandelsman et
    al. 2024 does with contributions. Texts are taken in the space that the part can write to, less
    the mean of the pool there: what all texts have in common is no word for either set.

    Parameters
    ----------
    difference_e : (E,) float
    map_ke : (K, E) float
        Its rows span what the part can write.
    texts_me : (M, E) float
    rounds : int
        Texts to pick; fewer come where the difference or the texts are used up.
    """
    # Columns of q are orthonormal and span the rows of the map, whatever its rank.
    _, strengths, rows = np.linalg.svd(map_ke, full_matrices=False)
    q_er = rows[strengths > strengths[:1] * 1e-9].T
    left_r, texts_mr = difference_e @ q_er, texts_me @ q_er
    texts_mr = texts_mr - texts_mr.mean(0)
    whole, lengths = float(left_r @ left_r), (texts_mr**2).sum(1)
    found: list[TextAlong] = []
    cumulative = 0.0
    for _ in range(rounds):
        if left_r @ left_r <= _SPENT * whole:
            break
        products = texts_mr @ left_r
        products[(texts_mr**2).sum(1) <= _SPENT * lengths] = 0.0
        sizes = np.abs(products)
        best = int(np.argmax(sizes >= sizes.max() * (1 - _TIE)))
        if not products[best]:
            break
        v_r = texts_mr[best] / np.linalg.norm(texts_mr[best])
        gain = float(v_r @ left_r) ** 2 / whole
        cumulative += gain
        found.append(TextAlong(best, bool(products[best] > 0), gain, cumulative))
        left_r = left_r - (left_r @ v_r) * v_r
        texts_mr = texts_mr - np.outer(texts_mr @ v_r, v_r)
    return found


def text_rows(
    part: Part, texts_me: np.ndarray, texts: Sequence[str], rounds: int
) -> list[dict[str, Any]]:
    """Rows of the table ``texts``."""
    return [
        {
            "component": part.component,
            "layer": part.layer,
            "head": part.head,
            "rank": rank,
            "text": texts[one.text],
            "towards": "a" if one.towards_a else "b",
            "explained": one.explained,
            "cumulative": one.cumulative,
        }
        for rank, one in enumerate(along(part.difference_e, part.map_ke, texts_me, rounds))
    ]


@dataclass(frozen=True, eq=False)
class TwoSets:
    """What a comparison found.

    Attributes
    ----------
    parts, texts : DataFrame
        As ``TWO_SETS`` has them.
    shares : dict of str to float
        Of the difference of the embeddings: of all heads, all blocks, and what is left, constants.
    """

    parts: pd.DataFrame
    texts: pd.DataFrame
    shares: dict[str, float]


def compare(
    store: Store,
    sets: tuple[Reductions, Reductions],
    layers: Sequence[int],
    texts_me: np.ndarray,
    texts: Sequence[str],
    rounds: int,
    teller: Teller = SILENT,
) -> TwoSets:
    """Where the means of two sets differ, in words.

    Parameters
    ----------
    store : Store
    sets : tuple of Reductions
        Of set a and of set b, with the moments of all of ``compared``.
    layers : sequence of int
        Whose heads are told; all of them have their share.
    texts_me : (M, E) float
        Embeddings of the pool.
    texts : sequence of str
    rounds : int
        Texts of each part.

    Raises
    ------
    FacetError
        If the means of the embeddings are the same.
    """
    every = [(i, h) for i in range(store.meta.layers) for h in range(store.meta.heads)]
    counts = sets[0].count("embedding"), sets[1].count("embedding")
    means = [r.array("embedding_mean").values for r in sets]
    whole_e = means[0] - means[1]
    if not whole_e.any():
        raise FacetError("`a` and `b`: the means of both sets are the same to the last digit")
    rows, named = [], []
    shares = dict.fromkeys(compared(store), 0.0)
    texts_me = np.asarray(texts_me, np.float64)
    blocks = store.meta.layers + 1 if "mlps" in shares else 0
    with teller.bar("parts", len(every) + blocks + 1) as move:
        for done, part in enumerate(parts(store, *sets, every), 1):
            row = parts_row(part, whole_e, counts)
            shares[part.component] += row["share"]
            if part.component != "heads" or part.layer in layers:
                rows.append(row)
                named += text_rows(part, texts_me, texts, rounds)
            move(done)
    shares["else"] = shares.pop("embedding") - sum(v for n, v in shares.items() if n != "embedding")
    return TwoSets(_table(rows, "parts"), _table(named, "texts"), shares)


def _table(rows: Sequence[dict[str, Any]], name: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=TWO_SETS[name].names)


def in_both(store: Store, a: str, b: str) -> int:
    """Images that both conditions pick, of those that are ok."""
    both = f"({a}\n) and ({b}\n)"
    return sum(each(_count, sorted(store.done_shards()), store.url, both))


def refuse_same(counts: tuple[int, int], both: int) -> None:
    """Refuse two conditions that pick the very same images."""
    if counts[0] == counts[1] == both:
        raise FacetError(
            f"`a` and `b` pick the same {several(both, 'image')}: there is no difference to be told"
        )


def _count(url: str, where: str, shard: int) -> int:
    return int(shard_rows(open_store(url), shard, where)[1].sum())
