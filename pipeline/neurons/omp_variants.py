"""Other sparse codes over the same dictionary: with coefficients of one sign, and by the lasso."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .omp import ROUNDING, SparseCodes, blocks_of_targets, check_pursuit, largest


def nonneg_omp(
    dictionary_me: Tensor, targets_ne: Tensor, terms: int, penalty: float = 0.0
) -> SparseCodes:
    """Pursuit with coefficients that are never negative.

    The active-set method of Lawson & Hanson 1974, chapter 23,
    over the whole dictionary, stopped after `terms` additions: each round adds the atom with the
    largest positive correlation, solves, and lets go of atoms whose coefficient reached zero.

    Parameters
    ----------
    dictionary_me : (M, E) float32 or float64
    targets_ne : (N, E)
    terms : int
    penalty : float
        λ: above 0, the codes are those of the lasso with non-negative coefficients, the least of
        ‖y − Σ c·atom‖²/2 + λ Σ c, wherever it is reached before so many additions; nothing is
        added whose correlation is no larger than λ.

    Returns
    -------
    SparseCodes
        At most `terms` atoms a target, in the order of their last picking; no prefixes.
    """
    check_pursuit(dictionary_me, targets_ne, terms)
    blocks = blocks_of_targets(dictionary_me, targets_ne, terms)
    parts = [_pursue(padded_me, block_ne, terms, penalty) for padded_me, block_ne in blocks]
    supports, coefficients, norms, held = map(torch.cat, zip(*parts, strict=True))
    return SparseCodes(supports, coefficients, norms, held, {})


def _pursue(
    dictionary_me: Tensor, targets_ne: Tensor, terms: int, penalty: float
) -> tuple[Tensor, ...]:
    count, embed = targets_ne.shape
    atoms_nke = targets_ne.new_zeros(count, terms, embed)
    gram_nkk = torch.eye(terms).to(targets_ne).repeat(count, 1, 1)
    right_nk = targets_ne.new_zeros(count, terms)
    code_nk, norms_nk = torch.zeros_like(right_nk), torch.zeros_like(right_nk)
    supports_nk = torch.full((count, terms), -1, device=targets_ne.device)
    active_nk = torch.zeros_like(supports_nk, dtype=torch.bool)
    held_nk = torch.zeros_like(supports_nk)
    floor_n = ROUNDING * torch.finfo(targets_ne.dtype).eps * targets_ne.norm(dim=1)
    residual_ne = targets_ne.clone()
    for k in range(terms):
        positive_nm = (residual_ne @ dictionary_me.T).clamp_(min=0)
        pick_n = largest(positive_nm)
        value_n = positive_nm.gather(1, pick_n[:, None]).squeeze(1)
        # A picked atom has no correlation left but rounding's: then nothing better is there.
        held_n = ((supports_nk == pick_n[:, None]) & active_nk).any(1)
        adds_n = (value_n > floor_n + penalty) & ~held_n
        atoms_nke[:, k] = torch.where(adds_n[:, None], dictionary_me[pick_n], 0)
        row_nk = torch.bmm(atoms_nke[:, : k + 1], atoms_nke[:, k, :, None]).squeeze(2)
        gram_nkk[:, k, : k + 1] = gram_nkk[:, : k + 1, k] = row_nk
        right_nk[:, k] = (atoms_nke[:, k] * targets_ne).sum(1) - penalty
        supports_nk[:, k] = torch.where(adds_n, pick_n, -1)
        active_nk[:, k] = adds_n
        now = slice(k + 1)
        code_nk[:, now], active_nk[:, now] = _solved(
            gram_nkk[:, now, now], right_nk[:, now], code_nk[:, now], active_nk[:, now]
        )
        residual_ne = targets_ne - torch.bmm(code_nk[:, None], atoms_nke).squeeze(1)
        norms_nk[:, k], held_nk[:, k] = residual_ne.norm(dim=1), active_nk.sum(1)
    order_nk = (~active_nk).to(torch.uint8).argsort(dim=1, stable=True)  # what is held comes first
    supports_nk = torch.where(active_nk, supports_nk, -1)
    return supports_nk.gather(1, order_nk), code_nk.gather(1, order_nk), norms_nk, held_nk


def _solved(
    gram_nkk: Tensor, right_nk: Tensor, code_nk: Tensor, active_nk: Tensor
) -> tuple[Tensor, Tensor]:
    """Best non-negative codes on the active atoms, starting from feasible ones."""
    while True:
        both_nkk = active_nk[:, :, None] & active_nk[:, None]
        masked_nkk = torch.where(both_nkk, gram_nkk, 0)
        masked_nkk += torch.diag_embed((~active_nk).to(gram_nkk))
        right = torch.where(active_nk, right_nk, 0)[..., None]
        factor, failed = torch.linalg.cholesky_ex(masked_nkk)
        best_nk = torch.cholesky_solve(right, factor).squeeze(2)
        if failed.any():  # dependent atoms: let go of the newest
            newest_nk = active_nk & (active_nk.cumsum(1) == active_nk.sum(1, keepdim=True))
            active_nk = active_nk & ~(newest_nk & (failed > 0)[:, None])
            continue
        falls_nk = active_nk & (best_nk <= 0)
        if not falls_nk.any():
            return best_nk, active_nk
        # Go towards the best as far as every coefficient stays non-negative.
        share_nk = torch.where(falls_nk, code_nk / (code_nk - best_nk), torch.inf)
        share_n = share_nk.nan_to_num(0.0, posinf=torch.inf).amin(1, keepdim=True)
        leaves_nk = falls_nk & (share_nk.nan_to_num(0.0, posinf=torch.inf) <= share_n)
        code_nk = torch.lerp(code_nk, best_nk, share_n.clamp(max=1).to(best_nk))
        code_nk = torch.where(active_nk & ~leaves_nk, code_nk, 0)
        active_nk = active_nk & ~leaves_nk


def lasso(dictionary_me: Tensor, targets_ne: Tensor, terms: int) -> SparseCodes:
    """The lasso's path (scikit-learn's LARS), followed until it holds `terms` atoms at once.

    Parameters and result as `nonneg_omp`; the coefficients have any sign, and atoms come by
    falling magnitude. Atoms leave a path, too, and one may end before it holds so many. A target
    takes seconds where the dictionary is large.
    """
    check_pursuit(dictionary_me, targets_ne, terms)
    atoms = np.asfortranarray(dictionary_me.cpu().double().numpy().T)
    supports = np.full((len(targets_ne), terms), -1)
    coefficients, norms = np.zeros(supports.shape), np.zeros(supports.shape)
    held = np.zeros(supports.shape, int)
    for n, target in enumerate(targets_ne.cpu().double().numpy()):
        path = _path(atoms, target, terms)
        counts = np.count_nonzero(path, axis=0)
        # Where the path first holds 1, 2, … atoms, or ends.
        reached = counts[:, None] >= np.arange(1, terms + 1)
        at = np.where(reached.any(0), reached.argmax(0), len(counts) - 1)
        norms[n] = np.linalg.norm(target[:, None] - atoms @ path[:, at], axis=0)
        held[n] = counts[at]
        code = path[:, at[-1]]
        order = np.argsort(-np.abs(code), kind="stable")[: held[n, -1]]
        supports[n, : len(order)], coefficients[n, : len(order)] = order, code[order]
    return SparseCodes(
        torch.from_numpy(supports).to(targets_ne.device),
        torch.from_numpy(coefficients).to(targets_ne),
        torch.from_numpy(norms).to(targets_ne),
        torch.from_numpy(held).to(targets_ne.device),
        {},
    )


def _path(atoms_em: NDArray[np.float64], target_e: NDArray[np.float64], terms: int) -> Any:
    """Codes (M, steps) along a path, to its end or past where it holds `terms` atoms."""
    from sklearn.linear_model import lars_path  # seconds to import, seldom needed

    steps = terms
    while True:
        penalties, _, path = lars_path(atoms_em, target_e, method="lasso", max_iter=steps)
        if len(penalties) <= steps or np.count_nonzero(path, axis=0).max() >= terms:
            return path
        steps *= 2
