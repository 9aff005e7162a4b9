"""Each neuron's strongest images, and the one direction that its effects on them follow.

The second-order effect of a neuron is close to one direction r_n of the joint space
(Gandelsman 2025, section 3.3): the first principal component over the images where its
mean-removed effect is largest, not centred again. Two passes over the coefficients are needed,
the first for the mean (`moments`), the second for the largest norms, as a state that is merged in
any order.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from storage.errors import NotFinite

from .maps import SecondOrderMaps

# Squarings until a matrix is diagonalised; what other eigenvalues may be of the first, squared so.
SQUARINGS, ALONE = 12, 1e-13


@dataclass(frozen=True, eq=False)
class TopImages:
    """The k images of largest mean-removed effect seen so far, for each neuron.

    Attributes
    ----------
    images : (N, k) int64
        Their numbers, by falling norm; -1 where fewer have been seen.
    norms : (N, k)
        ‖φ_n − mean‖; -1 where fewer have been seen.
    deviations : (N, k, P)
        Their coefficients less the mean.
    peaks : (N, k)
        The neurons' largest activations on them; NaN where they are not known.
    """

    images: Tensor
    norms: Tensor
    deviations: Tensor
    peaks: Tensor


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of N neurons: their first principal components.

    Attributes
    ----------
    directions : (N, E)
        r_n, of unit length; zero where a neuron has no effect at all.
    explained : (N,)
        Share of the top images' summed squared norms along r_n.
    positive : (N,) int64
        How many of the top images project positively: the sign is such that most do.
    scores : (N, k)
        ⟨φ_n − mean, r_n⟩ on the top images.
    """

    directions: Tensor
    explained: Tensor
    positive: Tensor
    scores: Tensor


def top_chunk(
    norms_bn: Tensor,
    deviations_bpn: Tensor,
    images_b: Tensor,
    k: int,
    peaks_bn: Tensor | None = None,
) -> TopImages:
    """State of one batch.

    Parameters
    ----------
    norms_bn : (B, N)
        From `SecondOrderMaps.norms` of the deviations.
    deviations_bpn : (B, P, N)
        Coefficients on the published scale, less their mean over the data set.
    images_b : (B,) int64
        The images' numbers.
    k : int
    peaks_bn : (B, N), optional
    """
    if k < 1:
        raise ValueError(f"the top {k} images asked for; ask for 1 or more")
    if bad := int((~norms_bn.isfinite()).any(1).sum()):
        raise NotFinite(
            f"{bad} of {len(norms_bn)} images have NaN or infinite effects: leave out the rows "
            "that are not ok"
        )
    batch, paths, neurons = deviations_bpn.shape
    order_kn = _order(norms_bn, images_b[:, None].expand_as(norms_bn))[:k]
    if (lacking := k - batch) > 0:
        empty = TopImages(
            torch.full((neurons, lacking), -1, device=norms_bn.device),
            norms_bn.new_full((neurons, lacking), -1),
            deviations_bpn.new_zeros(neurons, lacking, paths),
            norms_bn.new_full((neurons, lacking), torch.nan),
        )
    peaks_bn = torch.full_like(norms_bn, torch.nan) if peaks_bn is None else peaks_bn
    rows_kpn = deviations_bpn.gather(0, order_kn[:, None].expand(-1, paths, -1))
    found = TopImages(
        images_b[order_kn].T.contiguous(),
        norms_bn.gather(0, order_kn).T.contiguous(),
        rows_kpn.permute(2, 0, 1).contiguous(),
        peaks_bn.gather(0, order_kn).T.contiguous(),
    )
    return _joined(found, empty) if lacking > 0 else found


def top_combine(states: Iterable[TopImages]) -> TopImages:
    """Merge states of disjoint images; the order and the grouping do not matter."""
    total: TopImages | None = None
    for state in states:
        total = state if total is None else _merge(total, state)
    if total is None:
        raise ValueError("no states to combine: give at least one chunk")
    return total


def _merge(a: TopImages, b: TopImages) -> TopImages:
    if a.deviations.shape != b.deviations.shape:
        raise ValueError(
            f"states of different layers or k: {tuple(a.deviations.shape)} and "
            f"{tuple(b.deviations.shape)}"
        )
    both = _joined(a, b)
    order_nk = _order(both.norms.T, both.images.T)[: a.norms.shape[1]].T
    paths = a.deviations.shape[2]
    return TopImages(
        both.images.gather(1, order_nk),
        both.norms.gather(1, order_nk),
        both.deviations.gather(1, order_nk[:, :, None].expand(-1, -1, paths)),
        both.peaks.gather(1, order_nk),
    )


def _joined(a: TopImages, b: TopImages) -> TopImages:
    return TopImages(
        torch.cat([a.images, b.images], 1),
        torch.cat([a.norms, b.norms], 1),
        torch.cat([a.deviations, b.deviations], 1),
        torch.cat([a.peaks, b.peaks], 1),
    )


def _order(norms_bn: Tensor, images_bn: Tensor) -> Tensor:
    """Rows by falling norm, the lower image number first where norms are equal."""
    by_image_bn = images_bn.argsort(dim=0, stable=True)
    by_norm_bn = norms_bn.gather(0, by_image_bn).argsort(dim=0, descending=True, stable=True)
    return by_image_bn.gather(0, by_norm_bn)


def directions_of(top: TopImages, maps: SecondOrderMaps) -> Directions:
    """r_n of every neuron from its top images.

    Raises
    ------
    ValueError
        If fewer images than k were seen.
    """
    if (top.images < 0).any():
        seen = int((top.images >= 0).sum(1).min())
        raise ValueError(
            f"{seen} images were seen, but the top {top.images.shape[1]} are asked for: use more "
            "images or a smaller top-k"
        )
    gram_npp, rows_nkp = maps.gram_npp.double(), top.deviations.double()
    if rows_nkp.shape[1] <= rows_nkp.shape[2]:
        first = _from_inner_products(rows_nkp @ gram_npp @ rows_nkp.mT)
    else:
        # Coordinates in which lengths and angles are those of the effects themselves.
        first = first_directions(rows_nkp @ _roots(gram_npp))
    weights_np = torch.bmm(first.scores[:, None], rows_nkp).squeeze(1)
    lifted_ne = maps.lift(weights_np.to(maps.values_pnk))
    return Directions(
        _unit(lifted_ne),
        first.explained.to(lifted_ne),
        first.positive,
        first.scores.to(lifted_ne),
    )


def first_directions(rows_nke: Tensor) -> Directions:
    """First principal component of each neuron's k rows as they are, in the rows' coordinates.

    For effects in the joint space, such as indirect ones, directly; for second-order effects
    `directions_of` does without writing them out.
    """
    rows_nke = rows_nke.double()
    if rows_nke.shape[1] <= rows_nke.shape[2]:
        first = _from_inner_products(rows_nke @ rows_nke.mT)
        axis_ne = _unit(torch.bmm(first.scores[:, None], rows_nke).squeeze(1))
        return Directions(axis_ne, first.explained, first.positive, first.scores)
    squares_nee = rows_nke.mT @ rows_nke
    largest_n, axis_ne = _first(squares_nee)
    scores_nk = torch.bmm(rows_nke, axis_ne[:, :, None]).squeeze(2)
    sign_n1, positive_n = _sign(scores_nk)
    explained_n = _share(largest_n, squares_nee)
    axis_ne = torch.where((explained_n > 0)[:, None], axis_ne * sign_n1, 0)
    return Directions(axis_ne, explained_n, positive_n, scores_nk * sign_n1)


def _from_inner_products(inner_nkk: Tensor) -> Directions:
    """All but the directions, from the rows' inner products."""
    largest_n, vectors_nk = _first(inner_nkk)
    scores_nk = vectors_nk * largest_n.sqrt()[:, None]
    sign_n1, positive_n = _sign(scores_nk)
    explained_n = _share(largest_n, inner_nkk)
    return Directions(inner_nkk[:, :0, 0], explained_n, positive_n, scores_nk * sign_n1)


def _roots(squares: Tensor) -> Tensor:
    """R with R Rᵀ = S, for symmetric matrices S without negative eigenvalues, (N, n, n)."""
    roots, failed = torch.linalg.cholesky_ex(squares)
    if (singular := failed > 0).any():
        values, vectors = _eigh(squares[singular])
        roots[singular] = vectors * values.clamp(min=0).sqrt()[:, None]
    return roots


def _first(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue, (N,), and its vector, (N, n), of symmetric matrices without negative
    eigenvalues, (N, n, n), float64.

    A matrix is squared until it has one eigenvalue but for rounding, 1 - Σ μ² where Σ μ = 1; then
    each of its columns is the vector. Where the two largest are nearly equal it never is, and the
    matrix is diagonalised.
    """
    vectors = squares.new_empty(squares.shape[:2])
    left, powers = torch.arange(len(squares), device=squares.device), squares
    for _ in range(SQUARINGS):
        powers = powers / powers.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
        alone = 1 - powers.square().sum((1, 2)) <= ALONE  # not where all is zero
        if alone.any():
            found, at = left[alone], powers[alone].diagonal(dim1=1, dim2=2).argmax(1)
            columns = powers[alone].take_along_dim(at[:, None, None], 2)
            vectors[found] = _unit((squares[found] @ columns)[..., 0])
            left, powers = left[~alone], powers[~alone]
        if not len(left):
            break
        powers = powers @ powers
    if len(left):
        vectors[left] = _eigh(squares[left])[1][:, :, -1]
    largest = (vectors * (squares @ vectors[..., None])[..., 0]).sum(1).clamp(min=0)
    return largest, vectors


def _eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, and vectors of symmetric matrices.

    Twice 4,096 of 48 × 48 took an H100 5 s, twice 3,072 of 24 × 24 less than 0.1 s: cuSOLVER has a
    batched solver up to 32 only. One CPU core takes 1 s for 4,096 of the former.
    """
    held = matrices if matrices.shape[-1] <= 32 else matrices.cpu()
    if held.is_cuda:
        values, vectors = torch.linalg.eigh(held)
    else:
        # A thread for some matrices each: LAPACK's own threads share one small matrix, and wait.
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(torch.linalg.eigh, held.chunk(threads)))
        values, vectors = (torch.cat(part) for part in zip(*found, strict=True))
    return values.to(matrices.device), vectors.to(matrices.device)


def _share(largest_n: Tensor, squares: Tensor) -> Tensor:
    total_n = squares.diagonal(dim1=1, dim2=2).sum(-1)
    return torch.where(total_n > 0, largest_n / total_n, 0)


def _sign(scores_nk: Tensor) -> tuple[Tensor, Tensor]:
    """±1 that makes most scores positive, (neuron, 1), and how many then are.

    Where as many are positive as negative, their sum decides.
    """
    positive_n, negative_n = (scores_nk > 0).sum(1), (scores_nk < 0).sum(1)
    flips_n = (positive_n < negative_n) | ((positive_n == negative_n) & (scores_nk.sum(1) < 0))
    sign_n1 = torch.where(flips_n, -1, 1).to(scores_nk)[:, None]
    return sign_n1, torch.where(flips_n, negative_n, positive_n)


def _unit(rows_ne: Tensor) -> Tensor:
    lengths_n1 = rows_ne.norm(dim=1, keepdim=True)
    return torch.where(lengths_n1 > 0, rows_ne / lengths_n1, 0)


def explained_variance(
    directions_ne: Tensor, covariance_npp: Tensor, maps: SecondOrderMaps
) -> Tensor:
    """Share of the effects' variance over the whole data set along each direction, (neuron,).

    Parameters
    ----------
    directions_ne : (N, E)
        Of unit length, or zero.
    covariance_npp : (N, P, P)
        Of the coefficients (`moments`), on any scale.
    """
    covariance = covariance_npp.double()
    readout_np = maps.readout(directions_ne).T.double()
    along_n = torch.einsum("np,npq,nq->n", readout_np, covariance, readout_np)
    total_n = (maps.gram_npp.double() * covariance).sum((1, 2))
    return torch.where(total_n > 0, along_n / total_n, 0)
