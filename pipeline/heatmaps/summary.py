"""Numbers of pictures as figures of methods, with bootstrap intervals over the pictures.

What is held at a time are the numbers of one method under one protocol: some 100 bytes a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from storage.errors import FacetError

from .parts import read_parts
from .scores import BINS
from .tables import BASELINE, COUNTS, CURVES, FALLING, FIGURES, SEGMENTATION

# Weights of a block of resamples, at most: 32 MiB.
_WEIGHTS = 2**22
_MEANS = ("average_precision", "deletion", "insertion")
Floats = NDArray[np.float64]


class NothingToCount(FacetError):
    """No picture has a pixel that a mask calls foreground or background."""


def summary(
    parts: Sequence[str],
    methods: Sequence[str],
    protocols: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables of ``tables.SEGMENTATION``, but for ``pictures``, which they are made from.

    Parameters
    ----------
    parts : sequence of str
        URLs of files that ``parts.write_part`` wrote.
    methods : sequence of str
        Rows of the table of methods, in their order.
    protocols : sequence of str
    resamples, seed : int
        Bootstrap resamples of the pictures, for percentile intervals of 95%. They are the same for
        all methods, so that differences are of the same pictures each time.

    Raises
    ------
    NothingToCount
        If no picture has a pixel to count under a protocol.
    """
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in SEGMENTATION if name != "pictures"
    }
    for protocol in protocols:
        found: dict[str, _Figures] = {}
        images_b: NDArray[np.int64] | None = None
        for method in methods:
            numbers = _read(parts, method, protocol)
            if not len(numbers.images_b):
                raise NothingToCount(
                    f"protocol {protocol}: no picture has a pixel that its mask calls foreground "
                    "or background; are all values of the masks the ignored one?"
                )
            images_b = numbers.images_b if images_b is None else images_b
            if not np.array_equal(numbers.images_b, images_b):
                raise ValueError(f"{method} was held to other pictures than {methods[0]}")
            at = {"method": method, "protocol": protocol}
            found[method] = _figures(numbers.sums_bk, resamples, seed)
            rows["methods"].append(
                {**at, "images": len(numbers.images_b), **found[method].columns()}
            )
            for name, of_class in numbers.by_class():
                figures = _figures(of_class, resamples, seed).columns()
                rows["classes"].append({"class": name, **at, "images": len(of_class), **figures})
            rows["curve"] += [{**at, **point} for point in _curve(parts, method, protocol)]
        rows["differences"] += [
            {**difference, "protocol": protocol} for difference in _differences(found)
        ]
    return {name: pd.DataFrame(of, columns=SEGMENTATION[name].names) for name, of in rows.items()}


# -- numbers of pictures -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Numbers:
    """Of one method under one protocol, in the order of the pictures.

    Attributes
    ----------
    images_b : (pictures,) int64
    classes_b : (pictures,) str
    sums_bk : (pictures, 11)
        What is added up over pictures: ``COUNTS``, average precision, deletion and insertion, 0
        where they are unknown, and whether the last two are known.
    """

    images_b: NDArray[np.int64]
    classes_b: pa.DictionaryArray
    sums_bk: Floats

    def by_class(self) -> Iterator[tuple[str, Floats]]:
        """The sums of each class's pictures, by name."""
        names, of_b = self.classes_b.dictionary.to_pylist(), self.classes_b.indices.to_numpy()
        order = np.argsort(of_b, kind="stable")
        present, starts = np.unique(of_b[order], return_index=True)
        split = zip(present, np.split(order, starts[1:]), strict=True)
        for name, rows in sorted((names[number], rows) for number, rows in split):
            yield name, self.sums_bk[rows]


def _read(parts: Sequence[str], method: str, protocol: str) -> _Numbers:
    columns = ["image", "class", *COUNTS, *_MEANS]
    table = pa.concat_tables(read_parts(parts, method, protocol, columns)).sort_by("image")
    means = [table[name].to_numpy() for name in _MEANS]
    known = [np.isfinite(values) for values in means[1:]]
    sums = [*(table[name].to_numpy() for name in COUNTS), *map(np.nan_to_num, means), *known]
    return _Numbers(
        table["image"].to_numpy(),
        table["class"].combine_chunks().dictionary_encode(),
        np.stack(sums, 1, dtype=np.float64),
    )


# -- figures and intervals -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Figures:
    """``FIGURES`` of some pictures (k,), and of their resamples (resamples, k)."""

    whole_k: Floats
    drawn_rk: Floats

    def columns(self) -> dict[str, float]:
        """With their intervals, as tables have them."""
        low_k, high_k = _interval(self.drawn_rk)
        return {
            f"{name}{end}": float(values[k])
            for k, name in enumerate(FIGURES)
            for end, values in (("", self.whole_k), ("_low", low_k), ("_high", high_k))
        }


def _figures(sums_bk: Floats, resamples: int, seed: int) -> _Figures:
    """Figures of pictures drawn again with replacement; the same ones whenever as many are."""
    drawn = [weights_rb @ sums_bk for weights_rb in _resamples(len(sums_bk), resamples, seed)]
    images = len(sums_bk)
    return _Figures(_of_sums(sums_bk.sum(0), images), _of_sums(np.concatenate(drawn), images))


def _resamples(images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each picture is drawn, a block of resamples at a time."""
    rng = np.random.default_rng(seed)
    size = max(1, min(resamples, _WEIGHTS // images))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * images)
        yield counts.reshape(rows, images).astype(np.float64)


def _of_sums(sums_k: Floats, images: int) -> Floats:
    """``FIGURES`` from sums over pictures, along the last axis.

    Where neither map nor mask has anything of a side its IoU is 0, as in the published code.
    """
    counted, correct, both_0, either_0, both_1, either_1, precision, *erased = np.moveaxis(
        sums_k, -1, 0
    )
    iou_0, iou_1 = both_0 / np.maximum(either_0, 1), both_1 / np.maximum(either_1, 1)
    with np.errstate(invalid="ignore"):  # unknown is NaN
        deletion, insertion = erased[0] / erased[2], erased[1] / erased[3]
    accuracy, map_ = correct / counted, precision / images
    figures = [accuracy, iou_0, iou_1, (iou_0 + iou_1) / 2, map_, deletion, insertion]
    return np.stack(figures, -1)


def _interval(drawn_rk: Floats) -> Floats:
    """Both ends of the 95% intervals, (2, k); NaN where a figure is unknown."""
    ends = np.full((2, drawn_rk.shape[1]), np.nan)
    known_k = ~np.isnan(drawn_rk).all(0)
    if known_k.any():
        ends[:, known_k] = np.nanquantile(drawn_rk[:, known_k], [0.025, 0.975], axis=0)
    return ends


def _differences(found: dict[str, _Figures]) -> Iterator[dict[str, Any]]:
    """Every method less the best of each figure, and less the baseline where that is another."""
    for k, figure in enumerate(FIGURES):
        values = {method: of.whole_k[k] for method, of in found.items()}
        if np.isnan(list(values.values())).any():
            continue
        best = (min if figure in FALLING else max)(values, key=values.__getitem__)
        for against in dict.fromkeys([best, *([BASELINE] if BASELINE in found else [])]):
            for method in found:
                if method == against:
                    continue
                drawn_r = found[method].drawn_rk[:, k] - found[against].drawn_rk[:, k]
                low, high = _interval(drawn_r[:, None])[:, 0]
                yield {
                    "method": method,
                    "figure": figure,
                    "against": against,
                    "change": values[method] - values[against],
                    "change_low": low,
                    "change_high": high,
                }


def _curve(parts: Sequence[str], method: str, protocol: str) -> list[dict[str, float]]:
    """Precision and recall of all pixels whose relevance is at least a threshold.

    Thresholds that no pixel reaches have no point; nor has any where no pixel is foreground.
    """
    counts_cn = np.zeros((2, BINS), np.int64)
    for table in read_parts(parts, method, protocol, CURVES):
        for side, name in enumerate(CURVES):
            pixels = table[name].combine_chunks().flatten().to_numpy()
            counts_cn[side] += pixels.reshape(-1, BINS).sum(0, dtype=np.int64)
    wrong_n, right_n = counts_cn[:, ::-1].cumsum(1)[:, ::-1]
    return [
        {
            "threshold": n / BINS,
            "precision": right_n[n] / (right_n[n] + wrong_n[n]),
            "recall": right_n[n] / right_n[0],
        }
        for n in range(BINS)
        if right_n[0] and right_n[n] + wrong_n[n]
    ]


# -- pictures to be looked at --------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A picture to be looked at.

    Attributes
    ----------
    image : int
    case : {"worst", "middle", "best"}
    iou : float
        Of its foreground, by the method that it was chosen by.
    """

    image: int
    case: str
    iou: float


def cases(parts: Sequence[str], method: str, protocol: str, each: int = 4) -> list[Case]:
    """The worst, the middle and the best pictures by the IoU of the foreground.

    Pictures whose mask has no foreground are left out; where there are fewer, none is there twice.
    """
    columns = ["image", "intersection_foreground", "union_foreground", "curve_foreground"]
    images, ious = [np.empty(0, np.int64)], [np.empty(0)]
    for table in read_parts(parts, method, protocol, columns):
        truth = table["curve_foreground"].combine_chunks().flatten().to_numpy()
        has = truth.reshape(-1, BINS).any(1)
        image, both, either = (table[name].to_numpy()[has] for name in columns[:3])
        images.append(image)
        ious.append(both / either)
    image_b, iou_b = np.concatenate(images), np.concatenate(ious)
    rising = np.lexsort([image_b, iou_b])
    last = max(0, len(rising) - each)
    chosen: dict[int, Case] = {}
    for name, start in (("worst", 0), ("best", last), ("middle", last // 2)):
        for at in rising[start : start + each]:
            image = int(image_b[at])
            chosen.setdefault(image, Case(image, name, float(iou_b[at])))
    order = ("worst", "middle", "best")
    return sorted(chosen.values(), key=lambda c: (order.index(c.case), c.iou, c.image))
