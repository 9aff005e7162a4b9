"""A linear map from one model's embedding to another's, in closed form from moments.

y − ȳ ≈ (x − x̄) W with W = (C_xx + λ I)⁻¹ C_xy, both embeddings of unit length. λ is chosen among a
few by images that did not make W, and W is made anew with these, too; how well it foretells
embeddings is measured on images that had no part in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.stats.moments import Moments, combine
from storage.errors import FacetError

from .common import CHOOSING, HELD_OUT

Array = NDArray[np.float64]
# Strengths that are tried, as shares of the mean variance along an axis of the embedding.
STRENGTHS = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class RidgeMap:
    """The map, and how far it is to be trusted.

    Attributes
    ----------
    map_ef : (E, E')
        W.
    mean_e, mean_f : (E,), (E',)
        Of the images that made it.
    strength : float
        λ over the mean variance along an axis: one of ``STRENGTHS``.
    r2 : float
        Share of the held-out images' variance that it foretells, all axes together.
    images, held_out : int
        That made it (and chose its strength); that it was measured on.
    errors_ff, spread_ff : (E', E')
        Sums of products of the held-out images' errors; of their distances from their mean.
    """

    map_ef: Array
    mean_e: Array
    mean_f: Array
    strength: float
    r2: float
    images: int
    held_out: int
    errors_ff: Array
    spread_ff: Array

    def texts(self, texts_me: Array) -> Array:
        """Directions in the other model's joint space, (M, E')."""
        return np.asarray(texts_me, np.float64) @ self.map_ef

    def r2_along(self, directions_mf: Array) -> Array:
        """Share of the held-out images' variance along directions that the map foretells, (M,).

        NaN where nothing varies.
        """
        error, spread = (
            ((directions_mf @ products) * directions_mf).sum(1)
            for products in (self.errors_ff, self.spread_ff)
        )
        known = spread > 0
        return np.where(known, 1 - error / np.where(known, spread, 1.0), np.nan)


def ridge_map(parts: Sequence[Moments], width: int) -> RidgeMap:
    """The map, from the moments of both embeddings side by side.

    Parameters
    ----------
    parts : sequence of Moments
        By part of the images, as ``common.part_of`` has them.
    width : int
        E: what comes before it is x, the rest y.

    Raises
    ------
    FacetError
        If a part has too few images.
    """
    held, choosing = parts[HELD_OUT], parts[CHOOSING]
    fit = combine([p for i, p in enumerate(parts) if i not in (HELD_OUT, CHOOSING)])
    if min(held.n, choosing.n, fit.n) < 2:
        raise FacetError(
            f"{held.n + choosing.n + fit.n} images are in both stores: too few for a map that is "
            "measured on others than those that make it. Extract more, or choose another `where`"
        )
    tried = _maps(fit, width, STRENGTHS)
    scores = [_r2(*_errors(choosing, fit, w)) for w in tried]
    strength = STRENGTHS[int(np.argmax(scores))]
    both = combine([fit, choosing])
    (chosen,) = _maps(both, width, (strength,))
    errors, spread = _errors(held, both, chosen)
    return RidgeMap(
        chosen, both.mean[:width], both.mean[width:], strength, _r2(errors, spread), both.n,
        held.n, errors, spread,
    )  # fmt: skip


def _maps(moments: Moments, width: int, strengths: Sequence[float]) -> list[Array]:
    xx, xy = moments.m2[:width, :width], moments.m2[:width, width:]
    values, vectors = np.linalg.eigh(xx)
    values = np.maximum(values, 0.0)
    rotated, mean = vectors.T @ xy, values.mean() or 1.0
    return [vectors @ (rotated / (values + s * mean)[:, None]) for s in strengths]


def _errors(moments: Moments, made: Moments, map_ef: Array) -> tuple[Array, Array]:
    """Products of what a map leaves of some images' y, and of their y about their own mean."""
    width, apart = len(map_ef), moments.mean - made.mean
    about = moments.m2 + moments.n * np.outer(apart, apart)
    xx, xy, yy = about[:width, :width], about[:width, width:], about[width:, width:]
    shown = map_ef.T @ xy
    return yy - shown - shown.T + map_ef.T @ xx @ map_ef, moments.m2[width:, width:]


def _r2(errors_ff: Array, spread_ff: Array) -> float:
    total = np.trace(spread_ff)
    return float(1 - np.trace(errors_ff) / total) if total > 0 else float("nan")
