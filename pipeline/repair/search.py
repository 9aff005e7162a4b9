"""Gains of heads that lift the worst group: one convex problem, solved to a stated gap.

With an image's logits linear in the gains, its cross-entropy over the classes is convex in them.
Over a training half, of groups G with mean cross-entropies L_G, the gains g in [0, 1] make

    1/β · log mean_G exp(β · L_G(g)) + λ/2 · ‖1 − g‖²

smallest: the first part is the largest L_G, smoothed (it is below that by at most log(groups)/β),
and the second draws gains that change little to 1, so that there is one optimum. The temperature
of the cross-entropy is CLIP's own largest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from pipeline.cluster.tasks import each
from storage.errors import FacetError
from storage.store import open_store

from .groups import Asked, Group, members
from .scores import Scorer

TEMPERATURE, SHARPNESS, PULL = 100.0, 20.0, 0.01
# Of what is held of the training images; of more, a sample of every group.
HELD_BYTES = 2**30
# Images of a group, or all if it has fewer, without which gains are not looked for.
FEWEST = 10
# How far gains may be from the optimum, by the bound that strong convexity gives.
CLOSE = 1e-4


@dataclass(frozen=True, eq=False)
class Margins:
    """How much further than its own class each other class is, of N images, and of what.

    Attributes
    ----------
    base_nc : (N, C - 1) float64
        Logits of the other classes less that of the image's own.
    scores_snc : (S, N, C - 1) float64
        What mean-ablating each of S heads takes from these.
    groups_n : (N,) int64
        Numbers of groups, each with at least one image.
    """

    base_nc: np.ndarray
    scores_snc: np.ndarray
    groups_n: np.ndarray

    def objective(self, gains_s: np.ndarray) -> tuple[float, np.ndarray]:
        """What is made smallest, and its gradient (S,)."""
        away = 1 - gains_s
        scores_sm = self.scores_snc.reshape(len(away), -1)
        ahead_nc = TEMPERATURE * (self.base_nc - (away @ scores_sm).reshape(self.base_nc.shape))
        with_own = np.concatenate([np.zeros((len(ahead_nc), 1)), ahead_nc], 1)
        loss_n = logsumexp(with_own, axis=1)
        sizes_g = np.bincount(self.groups_n)
        loss_g = np.bincount(self.groups_n, loss_n) / sizes_g
        worst = logsumexp(SHARPNESS * loss_g, b=1 / len(loss_g)) / SHARPNESS
        share_n = (softmax(SHARPNESS * loss_g) / sizes_g)[self.groups_n]
        slope_nc = TEMPERATURE * share_n[:, None] * softmax(with_own, axis=1)[:, 1:]
        return worst + PULL / 2 * away @ away, scores_sm @ slope_nc.ravel() - PULL * away


@dataclass(frozen=True, eq=False)
class Found:
    """The gains that were found.

    Attributes
    ----------
    gains_s : (S,) float64
    before, after : float
        The objective with all gains 1, and with these.
    gap : float
        By how much the objective may be above its least value, at most.
    images : int
        On how many training images.
    rounds : int
        Of the solver.
    """

    gains_s: np.ndarray
    before: float
    after: float
    gap: float
    images: int
    rounds: int

    @property
    def facts(self) -> dict[str, float]:
        """What a result keeps of the search."""
        return {
            "before": self.before, "after": self.after, "gap": self.gap, "images": self.images,
            "rounds": self.rounds, "pull": PULL, "sharpness": SHARPNESS,
            "temperature": TEMPERATURE,
        }  # fmt: skip


def best_gains(margins: Margins) -> Found:
    """The gains that make the objective smallest.

    How far they are from that is bounded by the gradient that is left, v, with the parts that
    point out of the box taken away: the objective is λ-strongly convex, so that gains are within
    ‖v‖/λ of the optimum, and their objective within ‖v‖²/2λ of the least.

    Raises
    ------
    FacetError
        If the solver does not get that close.
    """
    gains_s = np.ones(len(margins.scores_snc))
    before, _ = margins.objective(gains_s)
    rounds = 0
    for _ in range(5):  # what it has learnt of the curvature it forgets, and goes on
        found = minimize(
            margins.objective, gains_s, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(gains_s),
            options={"maxiter": 5000, "maxfun": 10000, "maxcor": 50, "ftol": 0, "gtol": 1e-10},
        )  # fmt: skip
        gains_s, rounds = found.x, rounds + int(found.nit)
        after, gradient = margins.objective(gains_s)
        left = left_of(gains_s, gradient)
        if left <= CLOSE * PULL:
            return Found(gains_s, before, after, left**2 / 2 / PULL, len(margins.groups_n), rounds)
    raise FacetError(
        f"gains could not be found to {CLOSE}: after {rounds} rounds of the solver they are only "
        f"known to {left / PULL:.1g}. Take more training images, or another column of groups."
    )


def left_of(gains_s: np.ndarray, gradient_s: np.ndarray) -> float:
    """Length of a gradient without the parts that point out of the box."""
    out = ((gains_s <= 0) & (gradient_s > 0)) | ((gains_s >= 1) & (gradient_s < 0))
    return float(np.linalg.norm(np.where(out, 0.0, gradient_s)))


# -- of a store ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ShardMargins:
    """All that a task needs for the margins of its shard's training images.

    Attributes
    ----------
    url : str
    asked : Asked
    scorer : Scorer
    shares : dict of Group to float
        Which part of each group is taken.
    """

    url: str
    asked: Asked
    scorer: Scorer
    shares: Mapping[Group, float]


def sample(training: Mapping[Group, int], heads: int, classes: int) -> dict[Group, float]:
    """Which part of each group's training images fits into memory, all groups alike.

    Raises
    ------
    FacetError
        If that is too few to find gains by.
    """
    most = HELD_BYTES // (8 * heads * (classes - 1)) // len(training)
    if most < min(FEWEST, *training.values()):
        raise FacetError(
            f"of {classes} classes in {len(training)} groups only {most} images a group fit into "
            f"memory, too few to find gains of {heads} heads: name fewer classes, or groups"
        )
    return {group: min(1.0, most / count) for group, count in training.items()}


def shard_margins(plan: ShardMargins, shard: int) -> tuple[np.ndarray, np.ndarray, list[Group]]:
    """Of one shard: base (N, C - 1), scores (heads, N, C - 1), float32, and groups."""
    store = open_store(plan.url)
    mine = members(store, shard, plan.asked, "training")
    mine = mine.keep(mine.places < np.array([plan.shares[group] for group in mine.groups]))
    components, others = plan.scorer.components, len(plan.asked.classes.names) - 1
    used_s = np.zeros(components.count, bool)
    components.split(used_s)[0][:] = True
    bases = [np.zeros((0, others), np.float32)]
    scores = [np.zeros((int(used_s.sum()), 0, others), np.float32)]
    start = 0
    for parts in plan.scorer.parts(store, shard, mine.chosen):
        rows_n = np.arange(len(parts.norm_b))
        own_n = mine.classes[start : start + len(rows_n)]
        start += len(rows_n)
        other_nc = np.arange(others + 1) != own_n[:, None]
        base_nc, scores_snc = plan.scorer.logits(parts), plan.scorer.scores(parts, used_s)
        base_nc = base_nc - base_nc[rows_n, own_n, None]
        scores_snc = scores_snc - scores_snc[:, rows_n, own_n, None]
        bases.append(base_nc[other_nc].reshape(-1, others))
        scores.append(scores_snc[:, other_nc].reshape(len(scores_snc), -1, others))
    return np.concatenate(bases), np.concatenate(scores, 1), mine.groups


def gather(plan: ShardMargins, shards: Sequence[int], report: Callable[[int], None]) -> Margins:
    """Margins of the training half; ``report`` gets the number of shards done so far."""
    parts = []
    for done, part in enumerate(each(shard_margins, shards, plan)):
        parts.append(part)
        report(done + 1)
    groups = [group for *_, of in parts for group in of]
    numbers = {group: i for i, group in enumerate(sorted(set(groups)))}
    return Margins(
        np.concatenate([base for base, _, _ in parts]).astype(np.float64),
        np.concatenate([scores for _, scores, _ in parts], 1).astype(np.float64),
        np.array([numbers[group] for group in groups], np.int64),
    )
