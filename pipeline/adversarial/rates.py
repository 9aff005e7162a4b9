"""How often pictures fool the model: Table 3.3 of Gandelsman 2025, with intervals.

Pictures of one description share what it says, so a description counts as one observation: an
interval resamples descriptions, not pictures. A description that several repeats came to is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Whose rate the others' are taken from.
OURS = "second-order"
RESAMPLES, LEVEL = 10_000, 0.95


@dataclass(frozen=True)
class Share:
    """A share and its interval; NaN where nothing is known."""

    value: float
    low: float
    high: float


def share_of(
    fooled_d: NDArray[np.integer],
    there_d: NDArray[np.integer],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Share:
    """Σ fooled / Σ there over descriptions, with its bootstrap interval of 95%.

    Where all pictures agree, resampling knows no spread; the interval then reaches to where so
    many descriptions would all agree once in forty times, 1 − 0.025^(1/D) from the end.

    Parameters
    ----------
    fooled_d, there_d : (D,) int
        Of every description, pictures that fooled the model, and pictures with the drawn class.
    """
    held = there_d > 0
    fooled_d, there_d = fooled_d[held], there_d[held]
    descriptions = len(there_d)
    if not descriptions:
        return Share(np.nan, np.nan, np.nan)
    value, tail = fooled_d.sum() / there_d.sum(), (1 - LEVEL) / 2
    if value in (0, 1):
        reach = 1 - tail ** (1 / descriptions)
        return Share(value, max(0.0, value - reach), min(1.0, value + reach))
    if descriptions == 1:  # one observation has no spread
        return Share(value, 0.0, 1.0)
    rng = np.random.default_rng(seed)
    equal = np.full(descriptions, 1 / descriptions)
    weights_rd = rng.multinomial(descriptions, equal, size=resamples)
    low, high = np.quantile(weights_rd @ fooled_d / (weights_rd @ there_d), [tail, 1 - tail])
    return Share(float(value), float(low), float(high))


def less(ours: Share, other: Share) -> Share:
    """The difference of two shares, with an interval from theirs.

    The distances to both ends add up as independent errors do (Newcombe 1998, method 10, with
    these intervals in place of Wilson's). Where both share descriptions it is too wide.
    """
    return Share(
        ours.value - other.value,
        ours.value - other.value - np.hypot(ours.value - ours.low, other.high - other.value),
        ours.value - other.value + np.hypot(ours.high - ours.value, other.value - other.low),
    )


def rates(judged: pd.DataFrame) -> pd.DataFrame:
    """What became of the pictures of every source and repeat.

    Parameters
    ----------
    judged : DataFrame
        ``tables.JUDGED["judged"]``.

    Returns
    -------
    DataFrame
        ``tables.JUDGED["rates"]``, in the order in which sources come.
    """
    rows = []
    for (source, repeat), of in judged.groupby(["source", "repeat"], sort=False):
        counts = of["outcome"].value_counts()
        fooled = int(counts.get("fooled", 0))
        there = fooled + int(counts.get("not fooled", 0))
        rows.append(
            {
                "source": source,
                "repeat": repeat,
                "pictures": len(of),
                "blank": int(counts.get("blank", 0)),
                "refused": int(counts.get("refused", 0)),
                "there": there,
                "fooled": fooled,
                "share": fooled / there if there else np.nan,
            }
        )
    names = ["source", "repeat", "pictures", "blank", "refused", "there", "fooled", "share"]
    return pd.DataFrame(rows, columns=names)


def summary(judged: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """A row for every source of cues.

    Parameters
    ----------
    judged : DataFrame
        ``tables.JUDGED["judged"]``.
    texts : sequence of str
        The description of each picture.

    Returns
    -------
    DataFrame
        ``tables.JUDGED["table"]``: ``fooled`` is the mean over repeats of pictures that fooled the
        model, out of 100 that were asked for, and ``deviation`` their standard deviation, divided
        by the number of repeats as the published one is; ``share``, ``low`` and ``high`` are of
        those where the drawn class is there, over all repeats; ``less`` with its ends is that of
        second-order cues less this one.
    """
    of_repeats = rates(judged)
    frame = judged.assign(text=list(texts))
    shares: dict[str, Share] = {}
    for source in dict.fromkeys(judged["source"]):
        of = frame[frame["source"] == source]
        fooled = of["outcome"].eq("fooled").groupby(of["text"]).sum()
        there = of["outcome"].isin(["fooled", "not fooled"]).groupby(of["text"]).sum()
        shares[source] = share_of(fooled.to_numpy(np.int64), there.to_numpy(np.int64))
    rows = []
    for source, share in shares.items():
        of = of_repeats[of_repeats["source"] == source]
        of_hundred = 100 * of["fooled"] / of["pictures"]
        unknown = Share(np.nan, np.nan, np.nan)
        gain = less(shares[OURS], share) if OURS in shares and source != OURS else unknown
        rows.append(
            {
                "source": source,
                "repeats": len(of),
                "there": int(of["there"].sum()),
                "fooled": of_hundred.mean(),
                "deviation": of_hundred.std(ddof=0) if len(of) > 1 else np.nan,
                "share": share.value,
                "low": share.low,
                "high": share.high,
                "less": gain.value,
                "less_low": gain.low,
                "less_high": gain.high,
            }
        )
    return pd.DataFrame(rows)
