"""A region of a head's map: what is common to its images, and what the head writes of them."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.cloud import Cloud
from pipeline.explorer.columns import column, names
from pipeline.explorer.head_rows import head_rows
from pipeline.explorer.library import Opened
from pipeline.explorer.pools import PoolTexts
from pipeline.heads.two_sets import along
from pipeline.stats.shares import more_often

# Values that are told, and texts.
MOST_TOLD, TEXTS = 12, 5
# A value of fewer images says nothing of a region.
FEWEST = 5
# Of all intervals together, the share that may miss their figure.
LEVEL = 0.05
# Images whose contributions are read for the texts, about: of more, runs spread evenly.
READ = 131_072


@dataclass(frozen=True)
class Common:
    """A value of a column that images of a region have more often than all others.

    Attributes
    ----------
    column, value : str
    inside, outside : float
        Share of the region's images, and of the others, that have it.
    images : int
        Of the region, that have it.
    more, low, high : float
        The difference of the shares, and the ends of its interval.
    where : str or None
        The condition that picks the images that have it, where one can be written.
    """

    column: str
    value: str
    images: int
    inside: float
    outside: float
    more: float
    low: float
    high: float
    where: str | None


@dataclass(frozen=True)
class Commons:
    """What is common to images of a region.

    Attributes
    ----------
    found : tuple of Common
        Those that are surely more frequent, by the lower end of the interval.
    tested : int
        Values that were looked at: the intervals hold for all of them together.
    left_out : tuple of str
        Columns with so many values that no two images share one.
    """

    found: tuple[Common, ...]
    tested: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class RegionText:
    """A text along what the head writes of a region, less what it writes of all other images.

    Attributes
    ----------
    text : str
    inside : bool
        Whether it points to the region, and not to the others.
    explained : float
        Share of the squared difference that it adds.
    """

    text: str
    inside: bool
    explained: float


@dataclass(frozen=True)
class RegionTexts:
    """Texts along a region's difference.

    Attributes
    ----------
    texts : tuple of RegionText
        In the order of the picks.
    images, others : int
        That were read for it, inside and outside.
    distance : float
        Between the two means, on the published scale.
    """

    texts: tuple[RegionText, ...]
    images: int
    others: int
    distance: float


def by_chance(count: int, inside: int, having: int, images: int) -> float:
    """How likely ``count`` or more of ``inside`` images, drawn from ``images`` of which ``having``
    have a value, have it: the upper tail of the hypergeometric distribution (Fisher 1935)."""
    from scipy.special import gammaln  # long to import, and only now needed

    def chosen(n: int | NDArray, k: NDArray) -> NDArray:
        return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

    counts = np.arange(count, min(having, inside) + 1)
    logs = chosen(having, counts) + chosen(images - having, inside - counts)
    return float(np.exp(logs - chosen(images, np.array(inside))).sum())


def commons(here: Opened, cloud: Cloud, images: NDArray[np.int64]) -> Commons:
    """Values of all columns that a region's images have more often than the others on the map.

    With m values, each interval is that of 1 − ``LEVEL``/m (Bonferroni), as the highest of many
    differences is high by chance; and as it is too short for a value of few images, so many of them
    in the region must be less likely than ``LEVEL``/m, too.
    """
    seen_n = ~np.isnan(cloud.along_pn[0])
    n_outside = int(seen_n.sum()) - len(images)
    counted, left_out = [], []
    for name in names(here):
        known = column(here, name)
        if known.too_many:
            left_out.append(name)
        elif len(known.values) > 1:
            values = len(known.values)
            all_ = np.bincount(known.codes_n[seen_n] + 1, minlength=values + 1)[1:]
            inside = np.bincount(known.codes_n[images] + 1, minlength=values + 1)[1:]
            enough = np.flatnonzero(all_ >= FEWEST)
            counted.append((known, enough, inside[enough], (all_ - inside)[enough]))
    tested = sum(len(enough) for _, enough, _, _ in counted)
    if not len(images) or not n_outside:
        return Commons((), tested, tuple(left_out))
    z = -NormalDist().inv_cdf(LEVEL / 2 / max(tested, 1))
    found = []
    for known, enough, inside, outside in counted:
        more, low, high = more_often(inside, len(images), outside, n_outside, z)
        for i in np.flatnonzero(low > 0):
            having, images_seen = int(inside[i] + outside[i]), len(images) + n_outside
            if by_chance(int(inside[i]), len(images), having, images_seen) > LEVEL / tested:
                continue
            value, count = known.values[enough[i]], int(inside[i])
            found.append(
                Common(
                    known.name, str(value), count, count / len(images),
                    float(outside[i] / n_outside), float(more[i]), float(low[i]), float(high[i]),
                    condition(known.name, value),
                )
            )  # fmt: skip
    found.sort(key=lambda common: -common.low)
    return Commons(tuple(found[:MOST_TOLD]), tested, tuple(left_out))


def condition(column: str, value: object) -> str | None:
    """``colour == 'red'``; None where a condition cannot name the column or the value."""
    plain = isinstance(value, str | int | float)
    named = column.isidentifier() and not keyword.iskeyword(column)
    return f"{column} == {value!r}" if plain and named else None


def region_texts(
    here: Opened, layer: int, head: int, images: NDArray[np.int64], pool: PoolTexts
) -> RegionTexts:
    """Texts along the difference of what a head writes of a region and of all other images.

    Parameters
    ----------
    here : Opened
    layer, head : int
    images : (n,) int64
        Rising.
    pool : PoolTexts
    """
    rows = head_rows(here, layer, head)
    inside = np.zeros(here.meta.images, bool)
    inside[images] = True
    totals = np.zeros((2, rows.coordinates.into_kr.shape[1]))
    counts = np.zeros(2, np.int64)
    for start, values in rows.read(rows.fewer(READ)):
        known = ~np.isnan(values[:, 0])
        of_region = inside[start : start + len(values)]
        for side, chosen in enumerate((known & of_region, known & ~of_region)):
            totals[side] += values[chosen].sum(0, dtype=np.float64)
            counts[side] += chosen.sum()
    if not counts.all():
        return RegionTexts((), int(counts[0]), int(counts[1]), 0.0)
    means = totals / counts[:, None]
    difference_e = (means[0] - means[1]) @ rows.coordinates.texts_re
    picked = along(difference_e, rows.map_ke.astype(np.float64), pool.embeddings, TEXTS)
    texts = tuple(RegionText(pool.texts[p.text], p.towards_a, p.explained) for p in picked)
    distance = float(np.linalg.norm(difference_e))
    return RegionTexts(texts, int(counts[0]), int(counts[1]), distance)
