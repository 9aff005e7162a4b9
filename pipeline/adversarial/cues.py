"""Cues: texts that neurons which speak for a class stand for, too (Gandelsman 2025, section 3.5).

A neuron speaks for the target rather than the drawn class by the projection of its direction r_n
on the difference of the classes' texts, v. The texts of its code that the target does not name are
what else makes the model see the target: Eq. 3.4 sums them over the neurons that speak loudest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.errors import FacetError

from .choices import Source
from .coded import CodedNeurons
from .tables import CUES

# Sources whose cues are others in every repeat; those of the rest stand in repeat 0 alone.
DRAWN_ANEW: tuple[Source, ...] = ("random",)


def direction_of(means_ce: NDArray[np.floating], drawn: int, target: int) -> NDArray[np.float64]:
    """v, (E,): from the drawn class to the target.

    Parameters
    ----------
    means_ce : (C, E)
        Unit embeddings of the classes.
    drawn, target : int
        Rows.

    Raises
    ------
    FacetError
        If both classes have one and the same text.
    """
    v_e = means_ce[target].astype(np.float64) - means_ce[drawn].astype(np.float64)
    if not v_e.any():
        raise FacetError("the model has one and the same embedding for `drawn` and `target`")
    return v_e


def loudest(projections_n: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The neurons of largest |⟨v, r_n⟩|; of equal ones the first."""
    return np.argsort(-np.abs(projections_n), kind="stable")[:count]


def random_neurons(neurons: int, count: int, seed: int, repeat: int) -> NDArray[np.int64]:
    """As many neurons as are asked for, drawn anew for every repeat."""
    draws = np.random.default_rng([seed, repeat])
    return np.sort(draws.choice(neurons, min(count, neurons), replace=False))


def scores(
    coded: CodedNeurons, projections_n: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """w_j = Σ γ_j ⟨v, r_n⟩ over the chosen neurons, (M,) (Gandelsman 2025, Eq. 3.4)."""
    weights_n = np.zeros_like(projections_n)
    weights_n[chosen] = projections_n[chosen]
    of_texts = coded.coefficients_k * weights_n[coded.rows_k]
    return np.bincount(coded.texts_k, of_texts, len(coded.texts)).astype(np.float64)


def similar(texts_me: NDArray[np.floating], v_e: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines (M,) of the pool's unit embeddings with v: the baseline without neurons."""
    return texts_me.astype(np.float64) @ v_e / np.linalg.norm(v_e)


# Says of texts how alike they are to the target, and of each, unless it may be a cue, why not.
Judge = Callable[[Sequence[str]], tuple[NDArray[np.float64], list[str]]]
# Texts whose similarity is asked for at once.
_AT_ONCE = 64


def pick(
    texts: Sequence[str], scores_m: NDArray[np.float64], judge: Judge, count: int
) -> pd.DataFrame:
    """The texts of largest score, until there are so many that are no synonyms of the target.

    Parameters
    ----------
    texts : sequence of str
        The pool.
    scores_m : (M,)
        Texts whose score is not above 0 do not speak for the target and are no cues.
    judge : callable
    count : int

    Returns
    -------
    DataFrame
        rank, text, score, similarity, used, why: those that were dropped stand among the others.
    """
    order = [int(i) for i in np.argsort(-scores_m, kind="stable") if scores_m[i] > 0]
    rows: list[tuple[int, str, float, float, bool, str]] = []
    used = 0
    for first in range(0, len(order), _AT_ONCE):
        batch = order[first : first + _AT_ONCE]
        alike, why = judge([texts[i] for i in batch])
        for i, similarity, reason in zip(batch, alike, why, strict=True):
            if used == count:
                break
            row = (len(rows), texts[i], float(scores_m[i]), float(similarity), not reason, reason)
            rows.append(row)
            used += not reason
    columns = {
        "rank": int,
        "text": str,
        "score": float,
        "similarity": float,
        "used": bool,
        "why": str,
    }
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def of_source(
    source: Source,
    coded: CodedNeurons,
    v_e: NDArray[np.float64],
    judge: Judge,
    *,
    neurons: int,
    cues: int,
    seed: int = 0,
    repeat: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cues of neurons, and the neurons that gave them.

    Parameters
    ----------
    source : {"second-order", "random", "indirect"}
    coded : CodedNeurons
        By second-order effects, or, of source ``indirect``, by indirect ones.
    v_e : (E,)
    judge : callable
        See `pick`.
    neurons, cues : int
        How many.
    seed, repeat : int
        Of random neurons.

    Returns
    -------
    cues, neurons : DataFrame
        With the columns of ``tables.CUES``.
    """
    projections_n = coded.directions_ne @ v_e
    if source == "random":
        chosen = random_neurons(len(projections_n), neurons, seed, repeat)
    else:
        chosen = loudest(projections_n, neurons)
    found = pick(coded.texts, scores(coded, projections_n, chosen), judge, cues)
    table = pd.DataFrame(
        {
            "source": source,
            "repeat": repeat,
            "layer": coded.layers_n[chosen],
            "neuron": coded.neurons_n[chosen],
            "projection": projections_n[chosen],
        }
    )
    return found.assign(source=source, repeat=repeat)[CUES["cues"].names], table


def used_cues(
    cues: pd.DataFrame, sources: Iterable[str], repeats: int
) -> dict[tuple[str, int], list[str]]:
    """The cues of every source and repeat, as descriptions are written from them."""
    rows = cues[cues["used"]].sort_values("rank")
    by: dict[object, list[str]] = {
        key: of["text"].tolist() for key, of in rows.groupby(["source", "repeat"])
    }
    # Also of a file's table, if it has further repeats.
    anew = {*DRAWN_ANEW, *cues.loc[cues["repeat"] > 0, "source"]}
    return {
        (source, repeat): by.get((source, repeat if source in anew else 0), [])
        for source in sources
        for repeat in range(repeats)
    }
