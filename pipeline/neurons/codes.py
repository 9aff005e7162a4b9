"""Sparse text codes of neurons: blocks of neurons are tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.cluster import machines
from pipeline.cluster.tasks import each
from pipeline.cluster.work import LIBRARIES, Needs

from .choices import Method
from .omp import build_dictionary, omp
from .omp_variants import lasso, nonneg_omp

Neuron = tuple[int, int]

# Sizes of code that Gandelsman 2025, Figure 3.4, compares.
SIZES = (4, 8, 16, 32, 64, 128)
# Neurons of one task, at most.
_CPU_BLOCK, _GPU_BLOCK = 256, 4096
# Two tasks share a GPU: one computes while the other's arrays travel.
_GPU_SHARE = 0.5
# What `omp` holds of a block of targets at once, on a CPU.
VALUES_OF_A_PURSUIT = 1 << 25


@dataclass(frozen=True, eq=False)
class NeuronCodes:
    """Codes of N neurons over a pool.

    Attributes
    ----------
    supports : (N, m) int64
        Texts by falling size of their coefficients; -1 where there is none.
    coefficients : (N, m) float32
    sizes : tuple of int
        How many texts a code may have; the last is m.
    texts : (N, sizes) int64
        How many they have: fewer where a code stops sooner, or lets go of texts.
    residuals : (N, sizes) float32
        ‖r − r̂‖ of codes of these sizes.
    written : (sizes, N, E) float32 or None
        r̂ of these sizes: Σ γ_j text_j over unit texts less the pool's mean.
    """

    supports: NDArray[np.int64]
    coefficients: NDArray[np.float32]
    sizes: tuple[int, ...]
    texts: NDArray[np.int64]
    residuals: NDArray[np.float32]
    written: NDArray[np.float32] | None


def sizes_up_to(terms: int) -> tuple[int, ...]:
    """The published sizes below ``terms``, and ``terms``."""
    return (*(size for size in SIZES if size < terms), terms)


def task_bytes(texts: int, embed: int, terms: int) -> int:
    """Memory of one task: the dictionary (its own, padded, in float64) and a pursuit's arrays."""
    pursuit = min(_CPU_BLOCK * (texts + terms * (embed + terms)), VALUES_OF_A_PURSUIT)
    return LIBRARIES + 4 * (4 * texts * embed + 2 * pursuit)


def plan_blocks(neurons: int, memory: int) -> tuple[list[slice], Needs]:
    """Blocks of neurons, several for every worker of the cluster, and what a task takes."""
    have = machines.resources()
    needs, workers, most = Needs(1, 0, memory), max(1, int(have["CPU"])), _CPU_BLOCK
    if have["GPU"] >= 1:
        needs = replace(needs, gpus=_GPU_SHARE)
        workers, most = int(have["GPU"] / _GPU_SHARE), _GPU_BLOCK
    step = min(most, max(16, math.ceil(neurons / (4 * workers))))
    blocks = [slice(first, min(first + step, neurons)) for first in range(0, neurons, step)]
    return blocks, needs


def code_block(
    dictionary_me: NDArray[np.float32],
    targets_ne: NDArray[np.float32],
    method: Method,
    sizes: Sequence[int],
    written: bool,
) -> NeuronCodes:
    """Codes of a block.

    Parameters
    ----------
    dictionary_me : (M, E) float32
        From ``build_dictionary``.
    targets_ne : (N, E) float32
        Unit directions of neurons.
    method
    sizes : sequence of int
        Rising.
    written : bool
        Whether r̂ is wanted; where the method has no prefixes this takes a pursuit a size.
    """
    # No GPU is used that the task was not given: Ray hides it.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dictionary = torch.from_numpy(np.array(dictionary_me)).to(device)
    targets = torch.from_numpy(np.array(targets_ne)).to(device)
    terms = sizes[-1]
    if method == "omp":
        found = omp(dictionary, targets, terms, prefixes=sizes[:-1] if written else ())
        codes = [(found.supports[:, :size], found.prefixes[size]) for size in found.prefixes]
    else:
        run = nonneg_omp if method == "nonneg-omp" else lasso
        smaller = [run(dictionary, targets, size) for size in (sizes[:-1] if written else ())]
        codes = [(part.supports, part.coefficients) for part in smaller]
        found = run(dictionary, targets, terms)
    codes.append((found.supports, found.coefficients))
    rows = [_reconstruct(dictionary, *code).cpu().numpy() for code in codes] if written else None
    order = found.coefficients.abs().argsort(dim=1, descending=True, stable=True)
    at = torch.tensor([size - 1 for size in sizes], device=device)
    return NeuronCodes(
        found.supports.gather(1, order).cpu().numpy(),
        found.coefficients.gather(1, order).cpu().numpy(),
        tuple(sizes),
        found.held[:, at].cpu().numpy(),
        found.residual_norms[:, at].cpu().numpy(),
        None if rows is None else np.stack(rows),
    )


def _reconstruct(
    dictionary_me: torch.Tensor, supports_nk: torch.Tensor, coefficients_nk: torch.Tensor
) -> torch.Tensor:
    """r̂ = Σ γ_j text_j, (neuron, embed). No text (-1) has coefficient 0."""
    rows = torch.zeros(len(supports_nk), dictionary_me.shape[1]).to(dictionary_me)
    for k in range(supports_nk.shape[1]):
        rows += coefficients_nk[:, k, None] * dictionary_me[supports_nk[:, k]]
    return rows


def code_neurons(
    texts_me: NDArray[np.float32],
    directions_ne: NDArray[np.float32],
    method: Method,
    sizes: Sequence[int],
    written: bool = False,
    report: Callable[[int], None] = lambda neurons: None,
) -> NeuronCodes:
    """Codes of all neurons, in their order.

    Parameters
    ----------
    texts_me : (M, E) float32
        Embeddings of the pool.
    directions_ne : (N, E) float32
        Without dead neurons.
    report : callable
        Called with the number of neurons done so far.

    Raises
    ------
    ValueError
        If texts or directions hold NaN, a text has no direction, or there are too few texts.
    """
    dictionary = build_dictionary(torch.from_numpy(np.asarray(texts_me))).numpy()
    texts, embed = dictionary.shape
    blocks, needs = plan_blocks(len(directions_ne), task_bytes(texts, embed, sizes[-1]))
    targets = (directions_ne[block] for block in blocks)
    found = each(_code, targets, dictionary, method, tuple(sizes), written, needs=needs)
    parts: list[NeuronCodes] = []
    for block, part in zip(blocks, found, strict=True):
        parts.append(part)
        report(block.stop)
    return NeuronCodes(
        np.concatenate([p.supports for p in parts]),
        np.concatenate([p.coefficients for p in parts]),
        tuple(sizes),
        np.concatenate([p.texts for p in parts]),
        np.concatenate([p.residuals for p in parts]),
        np.concatenate([p.written for p in parts if p.written is not None], axis=1)
        if written
        else None,
    )


def _code(
    dictionary_me: NDArray[np.float32],
    method: Method,
    sizes: Sequence[int],
    written: bool,
    targets_ne: NDArray[np.float32],
) -> NeuronCodes:
    return code_block(dictionary_me, targets_ne, method, sizes, written)


def code_table(codes: NeuronCodes, neurons: Sequence[Neuron], texts: Sequence[str]) -> pd.DataFrame:
    """A row a text of a code: layer, neuron, rank (from 0), text, coefficient."""
    which, rank = np.nonzero((codes.supports >= 0) & (codes.coefficients != 0))
    layer, neuron = np.array(neurons, int).reshape(-1, 2)[which].T
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": neuron,
            "rank": rank,
            "text": [texts[i] for i in codes.supports[which, rank]],
            "coefficient": codes.coefficients[which, rank].astype(float),
        }
    )


def fit_table(codes: NeuronCodes, neurons: Sequence[Neuron]) -> pd.DataFrame:
    """A row a neuron and size: layer, neuron, most, terms, residual."""
    layer, neuron = np.repeat(np.array(neurons, int).reshape(-1, 2), len(codes.sizes), axis=0).T
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": neuron,
            "most": np.tile(codes.sizes, len(neurons)),
            "terms": codes.texts.ravel(),
            "residual": codes.residuals.astype(float).ravel(),
        }
    )
