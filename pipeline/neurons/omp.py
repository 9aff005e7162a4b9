"""Sparse codes by orthogonal matching pursuit, many targets at once (Gandelsman 2025, 3.4).

For every target y the pursuit picks the atom whose correlation with the residual is largest, and
projects y on all atoms picked so far. One matrix product a round gives the correlations of all
targets with all atoms, so no Gram matrix is ever held and a dictionary of 100,000 atoms is no
obstacle. (Summing Gram rows takes fewer operations, but each of them waits for memory: on a CPU
it costs more than this product as soon as some thirty atoms are picked.)

The picked atoms are kept as an orthonormal basis Q and a triangle R, A = QR: R is the Cholesky
factor of their Gram matrix, but got without squaring, so that near-duplicates do no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from storage.errors import NotFinite

# Atoms whose largest correlation is found together; two small searches beat one long one.
_GROUP = 256
# Values that a block of targets may hold: cache and memory on a CPU, launches on a GPU.
_CPU_VALUES, _GPU_VALUES = 1 << 25, 1 << 30
# Correlations below this many ε of the target's length are rounding: its residual is zero.
ROUNDING = 256


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Codes of N targets over at most m atoms each.

    Attributes
    ----------
    supports : (N, m) int64
        Atoms in the order in which they were picked; -1 from where a pursuit stopped because its
        residual is numerically zero or no independent atom is left.
    coefficients : (N, m)
        What the picked atoms are multiplied by; 0 where there is none.
    residual_norms : (N, m)
        ‖y − ŷ‖ of a code that may have 1, 2, … m atoms.
    held : (N, m) int64
        How many such a code has.
    prefixes : dict of int to (N, size)
        Coefficients of the best fit with the first `size` atoms alone, by size.
    """

    supports: Tensor
    coefficients: Tensor
    residual_norms: Tensor
    held: Tensor
    prefixes: dict[int, Tensor]


def build_dictionary(texts_me: Tensor) -> Tensor:
    """Atoms from text embeddings: the pool's mean subtracted, each row of unit length.

    The published code normalises each feature across the texts instead; this is what the paper
    says and what makes correlations comparable between texts.

    Parameters
    ----------
    texts_me : (M, E)
    """
    if texts_me.ndim != 2 or len(texts_me) < 2:
        raise ValueError(
            f"texts have shape {tuple(texts_me.shape)}; give (texts, embed) with 2 texts or more"
        )
    _refuse_faults(texts_me, "texts")
    centred = texts_me - texts_me.mean(0)
    lengths = centred.norm(dim=1, keepdim=True)
    least = torch.finfo(texts_me.dtype).eps * texts_me.norm(dim=1, keepdim=True)
    if (lengths <= 8 * least).any():
        row = int((lengths <= 8 * least).squeeze(1).nonzero()[0])
        raise ValueError(
            f"text {row} equals the mean of the {len(texts_me)} texts, so it has no direction: "
            "remove it, or use a more varied pool"
        )
    return centred / lengths


def omp(
    dictionary_me: Tensor, targets_ne: Tensor, terms: int, prefixes: Sequence[int] = ()
) -> SparseCodes:
    """Orthogonal matching pursuit.

    Parameters
    ----------
    dictionary_me : (M, E) float32 or float64
        Atoms as rows, from `build_dictionary`; on any device.
    targets_ne : (N, E)
        Of the same dtype and on the same device.
    terms : int
        Atoms to pick for each target, at most M. Above E, pursuits stop by themselves.
    prefixes : sequence of int
        Sizes, each at most `terms`, for which coefficients are wanted as well.

    Notes
    -----
    A pursuit stops when its largest correlation is rounding (below 256 ε of the target's length)
    or the atom it would pick depends on those it has (new part below √ε, as in scikit-learn's
    `orthogonal_mp`). Among equal correlations the lowest index wins.
    """
    check_pursuit(dictionary_me, targets_ne, terms)
    if bad := [size for size in prefixes if not 1 <= size <= terms]:
        raise ValueError(f"prefixes {bad} are not among 1 to {terms}, the terms asked for")
    parts = [
        _pursue(padded_me, block_ne, terms, prefixes)
        for padded_me, block_ne in blocks_of_targets(dictionary_me, targets_ne, terms)
    ]
    return SparseCodes(
        torch.cat([part.supports for part in parts]),
        torch.cat([part.coefficients for part in parts]),
        torch.cat([part.residual_norms for part in parts]),
        torch.cat([part.held for part in parts]),
        {size: torch.cat([part.prefixes[size] for part in parts]) for size in prefixes},
    )


def check_pursuit(dictionary_me: Tensor, targets_ne: Tensor, terms: int) -> None:
    """Refuse what no pursuit can work on."""
    if dictionary_me.ndim != 2 or targets_ne.ndim != 2:
        raise ValueError(
            f"dictionary and targets have shapes {tuple(dictionary_me.shape)} and "
            f"{tuple(targets_ne.shape)}; give (atoms, embed) and (targets, embed)"
        )
    if dictionary_me.shape[1] != targets_ne.shape[1]:
        raise ValueError(
            f"atoms have {dictionary_me.shape[1]} numbers and targets {targets_ne.shape[1]}: "
            "encode the texts with the model that the targets come from"
        )
    if dictionary_me.dtype != targets_ne.dtype:
        raise ValueError(f"dtypes differ: {dictionary_me.dtype} and {targets_ne.dtype}")
    if dictionary_me.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype is {dictionary_me.dtype}; give float32 or float64")
    if terms < 1:
        raise ValueError(f"{terms} terms asked for; ask for 1 or more")
    if len(dictionary_me) < terms:
        raise ValueError(
            f"{terms} terms cannot be picked from {len(dictionary_me)} atoms: give a larger pool "
            "or ask for fewer terms"
        )
    _refuse_faults(dictionary_me, "dictionary")
    _refuse_faults(targets_ne, "targets")


def _refuse_faults(rows: Tensor, what: str) -> None:
    if not (finite := rows.isfinite().all(1)).all():
        faulty = (~finite).nonzero().flatten()
        raise NotFinite(
            f"{what} hold NaN or infinite values in {len(faulty)} of {len(rows)} rows, the first "
            f"being row {int(faulty[0])}: remove them or compute them again"
        )


def blocks_of_targets(
    dictionary_me: Tensor, targets_ne: Tensor, terms: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The dictionary, padded with zeros to whole groups, with as many targets as fit at once."""
    atoms, embed = dictionary_me.shape
    padded_me = F.pad(dictionary_me, (0, 0, 0, -atoms % min(_GROUP, atoms)))
    each = len(padded_me) + terms * (embed + terms)
    rows = max(1, (_GPU_VALUES if targets_ne.is_cuda else _CPU_VALUES) // each)
    for block_ne in targets_ne.split(rows):
        yield padded_me, block_ne


def largest(values_nm: Tensor) -> Tensor:
    """Index of each row's largest value by magnitude; the lowest among equals.

    Rows are whole groups long, or shorter than one.
    """
    groups_ngm = values_nm.unflatten(1, (-1, min(_GROUP, values_nm.shape[1])))
    best_ng = torch.maximum(groups_ngm.amax(2), -groups_ngm.amin(2))
    group_n = best_ng.argmax(1)
    inside_nm = groups_ngm[torch.arange(len(group_n), device=group_n.device), group_n]
    return group_n * groups_ngm.shape[2] + inside_nm.abs().argmax(1)


def _pursue(
    dictionary_me: Tensor, targets_ne: Tensor, terms: int, prefixes: Sequence[int]
) -> SparseCodes:
    count, embed = targets_ne.shape
    basis_nke = targets_ne.new_zeros(count, terms, embed)
    triangle_nkk = torch.eye(terms).to(targets_ne).repeat(count, 1, 1)
    along_nk = targets_ne.new_zeros(count, terms)
    norms_nk = targets_ne.new_zeros(count, terms)
    supports_nk = torch.full((count, terms), -1, device=targets_ne.device)
    residual_ne = targets_ne.clone()
    eps = torch.finfo(targets_ne.dtype).eps
    floor_n = ROUNDING * eps * targets_ne.norm(dim=1)
    alive_n = torch.ones_like(floor_n, dtype=torch.bool)
    correlations_nm = targets_ne.new_empty(count, len(dictionary_me))
    for k in range(terms):
        torch.mm(residual_ne, dictionary_me.T, out=correlations_nm)
        pick_n = largest(correlations_nm)
        value_n = correlations_nm.gather(1, pick_n[:, None]).squeeze(1).abs()
        atom_ne = dictionary_me[pick_n]
        new_ne, overlap_nk = _orthogonalised(atom_ne, basis_nke[:, :k])
        length_n = new_ne.norm(dim=1)
        alive_n &= (value_n > floor_n) & (length_n > eps**0.5 * atom_ne.norm(dim=1))
        if not alive_n.any():
            norms_nk[:, k:] = residual_ne.norm(dim=1, keepdim=True)
            break
        new_ne = torch.where(alive_n[:, None], new_ne / length_n[:, None], 0)
        basis_nke[:, k] = new_ne
        triangle_nkk[:, :k, k] = overlap_nk * alive_n[:, None]
        triangle_nkk[:, k, k] = torch.where(alive_n, length_n, 1)
        along_nk[:, k] = (new_ne * residual_ne).sum(1)
        residual_ne -= along_nk[:, k, None] * new_ne
        norms_nk[:, k] = residual_ne.norm(dim=1)
        supports_nk[:, k] = torch.where(alive_n, pick_n, -1)

    def solved(size: int) -> Tensor:
        """Rγ = Qᵀy; where a pursuit stopped, R is the identity and Qᵀy is 0."""
        upper, right = triangle_nkk[:, :size, :size], along_nk[:, :size, None]
        return torch.linalg.solve_triangular(upper, right, upper=True).squeeze(2)

    return SparseCodes(
        supports_nk,
        solved(terms),
        norms_nk,
        (supports_nk >= 0).cumsum(1),
        {size: solved(size) for size in prefixes},
    )


def _orthogonalised(atom_ne: Tensor, basis_nke: Tensor) -> tuple[Tensor, Tensor]:
    """What of each atom is new to its basis, and its coordinates in it.

    Where little is new, rounding is projected away again: twice is enough (Giraud et al. 2005).
    """
    overlap_nk = torch.bmm(atom_ne[:, None], basis_nke.transpose(1, 2)).squeeze(1)
    new_ne = atom_ne - torch.bmm(overlap_nk[:, None], basis_nke).squeeze(1)
    again = (new_ne.norm(dim=1) < 0.5 * atom_ne.norm(dim=1)).nonzero().flatten()
    if len(again):
        basis, new = basis_nke[again], new_ne[again]
        more = torch.bmm(new[:, None], basis.transpose(1, 2))
        new_ne[again] = new - torch.bmm(more, basis).squeeze(1)
        overlap_nk[again] += more.squeeze(1)
    return new_ne, overlap_nk
