"""Whether concepts are true of their images, where the truth is known: the embedded world.

An image's concepts are gone through by falling score, those above 0 alone. Of the first 5, and the
first 10, that name anything (``a red star`` names a colour and a shape), the values that they name
are taken together, each once; the image's precision is the share of them that is true of it. An
image of which nothing is named has none, and is left out; how many have one is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from statistics import NormalDist

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.microworld.words import microworld_values
from pipeline.microworld.world import ATTRIBUTES

from .over import first
from .tables import OVER

# Concepts that name something, of which values are taken.
AT = (5, 10)
VALUES = [(name, str(value)) for name, values in ATTRIBUTES.items() for value in values]
# A row for all values, then one for the values of each attribute.
CELLS = ("all", *ATTRIBUTES)
# Series that others are held against: the texts nearest to the whole embedding less its mean.
NEAREST = "nearest texts, mean-removed"
_Z = NormalDist().inv_cdf(0.975)

Floats = NDArray[np.float64]


def named_values(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which of ``VALUES`` every text names, (M, V)."""
    at = {value: v for v, value in enumerate(VALUES)}
    named_mv = np.zeros((len(texts), len(VALUES)), bool)
    for row, text in zip(named_mv, texts, strict=True):
        row[[at[value] for value in microworld_values(text)]] = True
    return named_mv


def true_values(rows: pa.Table) -> NDArray[np.bool_]:
    """Which of ``VALUES`` every image has, (B, V)."""
    columns = {
        name: np.array(list(map(str, rows[name].to_pylist())), object) for name in ATTRIBUTES
    }
    return np.stack([columns[name] == value for name, value in VALUES], axis=1)


@dataclass(frozen=True, eq=False)
class Told:
    """Values that concepts name of images, and those of them that are true: counts.

    Attributes
    ----------
    named, right : (B, len(AT), len(CELLS))
    """

    named: Floats
    right: Floats

    @property
    def precision(self) -> Floats:
        """Share of the named ones that are true; NaN where nothing is named."""
        return np.where(self.named > 0, self.right / np.maximum(self.named, 1), np.nan)


def told(
    scores_bm: NDArray[np.floating], named_mv: NDArray[np.bool_], true_bv: NDArray[np.bool_]
) -> Told:
    """What the first concepts of images name, and how much of it is true.

    Parameters
    ----------
    scores_bm : (B, M)
    named_mv : (M, V) bool
        See ``named_values``.
    true_bv : (B, V) bool
        See ``true_values``.
    """
    found = Told(*np.zeros((2, len(scores_bm), len(AT), len(CELLS))))
    naming = np.flatnonzero(named_mv.any(1))
    if not len(naming):
        return found
    firsts = first(scores_bm[:, naming], max(AT))
    named_bkv = named_mv[naming][firsts.index] & (firsts.index >= 0)[..., None]
    cells_vc = np.array([[c in ("all", name) for c in CELLS] for name, _ in VALUES], float)
    for i, k in enumerate(AT):
        named_bv = named_bkv[:, :k].any(1)
        found.named[:, i], found.right[:, i] = named_bv @ cells_vc, (named_bv & true_bv) @ cells_vc
    return found


@dataclass(frozen=True, eq=False)
class Sums:
    """Of images with a figure: how many, the figures' sum, and that of their squares."""

    n: Floats
    total: Floats
    squares: Floats

    @classmethod
    def of(cls, values: Floats) -> Sums:
        """Over the first axis; NaN is no figure."""
        known = ~np.isnan(values)
        kept = np.where(known, values, 0.0)
        return cls(known.sum(0).astype(float), kept.sum(0), (kept**2).sum(0))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.n + other.n, self.total + other.total, self.squares + other.squares)

    def interval(self) -> tuple[Floats, Floats, Floats]:
        """Means with both ends of their 95% intervals, mean ± z s/√n; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.total / self.n
            spread = np.maximum(self.squares / self.n - mean**2, 0) * self.n / (self.n - 1)
            half = _Z * np.sqrt(spread / self.n)
        return mean, mean - half, mean + half


@dataclass(frozen=True, eq=False)
class Precision:
    """Precisions of series over some images.

    Attributes
    ----------
    images : int
        All that were looked at.
    of : dict of str to Sums
        Precisions, (at, cell), by series.
    more : dict of str to Sums
        Precisions less those of ``NEAREST`` on the same images.
    values : dict of str to Sums
        Values that are named.
    """

    images: int
    of: dict[str, Sums]
    more: dict[str, Sums]
    values: dict[str, Sums]


def measure(found: Mapping[str, Sequence[Told]]) -> Precision:
    """Precisions of some images.

    Parameters
    ----------
    found : mapping of str to sequence of Told
        Of every series, once for each draw; ``NEAREST`` is one of them.
    """
    mean = {name: _mean([one.precision for one in draws]) for name, draws in found.items()}
    nearest = mean[NEAREST]
    return Precision(
        len(nearest),
        {name: Sums.of(values) for name, values in mean.items()},
        {name: Sums.of(values - nearest) for name, values in mean.items() if name != NEAREST},
        {
            name: Sums.of(np.mean([one.named for one in draws], axis=0))
            for name, draws in found.items()
        },
    )


def _mean(draws: Sequence[Floats]) -> Floats:
    """Of the draws in which an image has a precision."""
    known = np.sum([~np.isnan(draw) for draw in draws], axis=0)
    total = np.sum([np.nan_to_num(draw) for draw in draws], axis=0)
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def merge(found: Iterable[Precision]) -> Precision:
    """Precisions over the images of all."""
    parts = list(found)

    def added(of: str) -> dict[str, Sums]:
        sums: list[dict[str, Sums]] = [getattr(part, of) for part in parts]
        return {name: reduce(add, (each[name] for each in sums)) for name in sums[0]}

    return Precision(sum(p.images for p in parts), added("of"), added("more"), added("values"))


def precision_table(found: Precision) -> pd.DataFrame:
    """A row for every series, number of concepts and attribute, as ``tables.OVER`` has them."""
    rows: list[dict[str, object]] = []
    for series, sums in found.of.items():
        figures = sums.interval()
        more = found.more[series].interval() if series in found.more else None
        values, _, _ = found.values[series].interval()
        for i, k in enumerate(AT):
            for c, cell in enumerate(CELLS):
                if not sums.n[i, c]:
                    continue
                row = {"series": series, "at": k, "attribute": cell, "images": found.images}
                row |= {"named": int(sums.n[i, c]), "values": values[i, c]}
                for name, value in zip(("precision", "low", "high"), figures, strict=True):
                    row[name] = value[i, c]
                for j, name in enumerate(("more", "more_low", "more_high")):
                    row[name] = np.nan if more is None else more[j][i, c]
                rows.append(row)
    return pd.DataFrame(rows, columns=OVER["precision"].names)
