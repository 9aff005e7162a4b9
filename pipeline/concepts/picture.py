"""Concepts of one picture: by each method the texts, who said each, and where it comes from.

The score of a text by neurons is a sum over tokens, exactly. With p what a neuron is at token i,
α/σ what a later head reads it with, and readout what a unit of that comes to along the neuron's
direction,

    score_j = Σ_n γ_nj [Σ_i p_i^n Σ_path (α_i/σ_i) readout_path,n − ⟨mean φ_n, r_n⟩]

over the neurons that are active. A map is what the patches have of it; what it leaves out, the
class token (with registers) and the mean, stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neurons.forward import TokenReads

from .by_codes import LEFT, ByEmbedding, ByHeads, Rest
from .by_neurons import ByNeurons
from .codes import Said
from .wrote import Wrote

Array = NDArray[np.float64]
By = ByNeurons | ByHeads | ByEmbedding
# Neurons whose activations are kept: those that weigh most.
FIRES = 8


@dataclass(frozen=True, eq=False)
class TextMap:
    """Where a text's score comes from: Σ map + class_token + mean = score.

    Attributes
    ----------
    text : str
    map_rc : (rows, columns) float64
        What the patches have of it.
    class_token, mean : float
        What the class token and registers have; what the mean takes away.
    """

    text: str
    map_rc: Array
    class_token: float
    mean: float


@dataclass(frozen=True, eq=False)
class Firing:
    """Where a neuron fires: its activation at every patch, (rows, columns)."""

    layer: int
    neuron: int
    map_rc: Array


@dataclass(frozen=True, eq=False)
class Told:
    """What one method says of one picture.

    Attributes
    ----------
    method : str
    scores : dict of str to float
        Those texts that are kept: what is spoken for by falling score, then what is spoken
        against.
    said : dict of str to list of Said
        Who speaks for each or against it; a head stands where a neuron would, with weight 1.
    active, parts : int
        How many neurons, heads or embeddings speak, of how many.
    left : dict of str to (share, length)
        What codes leave, as shares of the embedding less its mean, and how long they are beside
        it; by ``by_codes.LEFT`` of heads, by ``all`` of the embedding.
    maps : list of TextMap
    fires : list of Firing
    """

    method: str
    scores: dict[str, float]
    said: dict[str, list[Said]]
    active: int
    parts: int
    left: dict[str, tuple[float, float]]
    maps: list[TextMap]
    fires: list[Firing]


def first_texts(texts: Sequence[str], scores_m: Array, top: int) -> dict[str, float]:
    """Texts of the largest scores above 0, then of the smallest below, `top` of each at most."""
    order = np.argsort(-scores_m, kind="stable")
    speak = [i for i in order[:top] if scores_m[i] > 0]
    against = [i for i in order[::-1][:top] if scores_m[i] < 0]
    return {texts[i]: float(scores_m[i]) for i in [*speak, *against]}


def concepts_of(
    method: str, by: By, wrote: Wrote, top: int, rest: Rest | None = None, grid: Any = None
) -> Told:
    """What a method says of one picture.

    Parameters
    ----------
    method : str
    by : ByNeurons, ByHeads or ByEmbedding
    wrote : Wrote
        With what the method asks.
    top : int
        Texts that are kept, for and against each.
    rest : Rest, optional
        Of heads: what is needed to tell what their codes leave.
    grid : (rows, columns), optional
        Of the patches, where maps are wanted of neurons and tokens are known.
    """
    if isinstance(by, ByNeurons):
        return _by_neurons(method, by, wrote, top, grid)
    assert wrote.parts is not None
    if isinstance(by, ByHeads):
        return _by_heads(method, by, wrote, top, rest)
    codes = by.codes(wrote.parts)
    scores_m, target_e = by.dictionary.scores(codes)[0], by.targets(wrote.parts)[0]
    scores = first_texts(by.texts, scores_m, top)
    left_e = target_e - scores_m @ by.dictionary.atoms_me.double().cpu().numpy()
    left = float(left_e @ target_e), float(np.linalg.norm(left_e))
    return Told(method, scores, {}, 1, 1, {"all": left}, [], [])


def _by_neurons(method: str, by: ByNeurons, wrote: Wrote, top: int, grid: Any) -> Told:
    weights = {layer: weights_bn[0] for layer, weights_bn in by.weights(wrote.rows).items()}
    scores_m = by.codes.add({layer: of[None] for layer, of in weights.items()})[0]
    scores = first_texts(by.texts, scores_m, top)
    maps, fires = [], []
    if grid is not None and wrote.reads is not None:
        if not by.published:  # lengths are no sums over tokens
            maps = concept_maps(by, wrote, weights, list(scores), grid)
        fires = strongest(wrote.reads, weights, grid)
    return Told(
        method,
        scores,
        {text: by.codes.said(weights, text) for text in scores},
        sum(int((of != 0).sum()) for of in weights.values()),
        sum(len(of) for of in weights.values()),
        {},
        maps,
        fires,
    )


def _by_heads(method: str, by: ByHeads, wrote: Wrote, top: int, rest: Rest | None) -> Told:
    assert wrote.parts is not None
    by_head_bhm = by.by_head(wrote.parts)
    by_head_hm = by_head_bhm[0]
    scores = first_texts(by.texts, by_head_hm.sum(0), top)
    at, said = {text: i for i, text in enumerate(by.texts)}, {}
    for text in scores:
        column_h = by_head_hm[:, at[text]]
        spoke = np.argsort(-np.abs(column_h), kind="stable")[: np.count_nonzero(column_h)]
        said[text] = [Said(by.heads[i][0], by.heads[i][1], float(column_h[i]), 1.0) for i in spoke]
    left = {}
    if rest is not None:
        left_ce = rest.left(by, wrote.parts, by_head_bhm)[0]
        whole_e = wrote.parts.embedding_be[0] / wrote.parts.norm_b[0] - by.mean_e
        length = float(np.linalg.norm(whole_e))
        left = {
            name: (float(of_e @ whole_e) / length**2, float(np.linalg.norm(of_e)) / length)
            for name, of_e in zip((*LEFT, "all"), (*left_ce, left_ce.sum(0)), strict=True)
        }
    active = int(by_head_hm.any(1).sum())
    return Told(method, scores, said, active, len(by.heads), left, [], [])


def concept_maps(
    by: ByNeurons,
    wrote: Wrote,
    weights: Mapping[int, Array],
    texts: Sequence[str],
    grid: tuple[int, int],
) -> list[TextMap]:
    """The exact split of texts' scores over tokens; float64 from what the pass read.

    Parameters
    ----------
    by : ByNeurons
        By projections.
    wrote : Wrote
        One picture, token by token.
    weights : mapping of int to (N,)
        0 for a neuron that is not active.
    texts : sequence of str
    grid : (rows, columns)
        Of the patches, which are the last tokens.
    """
    assert wrote.reads is not None
    at = [by.texts.index(text) for text in texts]
    tokens = next(iter(wrote.reads.hidden.values())).shape[1]
    split_jt, mean_j = np.zeros((len(at), tokens)), np.zeros(len(at))
    for layer, weights_n in weights.items():
        spoke = np.flatnonzero(weights_n)
        gamma_nj = by.codes.by_layer[layer][spoke][:, at].toarray()
        effects = by.effects[layer]
        readout_pn, means_pn = (
            of[:, spoke].double().cpu().numpy() for of in (effects.readout_pn, effects.mean_pn)
        )
        weights_pt = wrote.reads.weights[layer][0].double().cpu().numpy()
        hidden_tn = wrote.reads.hidden[layer][0][:, spoke].double().cpu().numpy()
        along_tn = hidden_tn * (weights_pt.T @ readout_pn) / float(wrote.rows[layer].scale_b[0])
        split_jt += gamma_nj.T @ along_tn.T
        mean_j -= (means_pn * readout_pn).sum(0) @ gamma_nj
    patches = int(np.prod(grid))
    return [
        TextMap(
            text,
            split_jt[j, tokens - patches :].reshape(grid),
            float(split_jt[j, : tokens - patches].sum()),
            float(mean_j[j]),
        )
        for j, text in enumerate(texts)
    ]


def strongest(
    reads: TokenReads, weights: Mapping[int, Array], grid: tuple[int, int]
) -> list[Firing]:
    """Where the neurons fire that weigh most."""
    patches = int(np.prod(grid))
    every = [(layer, int(n)) for layer, of in weights.items() for n in np.flatnonzero(of)]
    every.sort(key=lambda one: -abs(weights[one[0]][one[1]]))
    found = []
    for layer, neuron in every[:FIRES]:
        hidden_t = reads.hidden[layer][0, -patches:, neuron].double().cpu().numpy()
        found.append(Firing(layer, neuron, hidden_t.reshape(grid)))
    return found
