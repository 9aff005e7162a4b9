"""How well maps agree with masks, picture by picture, for a batch at a time on any device.

The published protocol (Chefer et al. 2021, and Gandelsman et al. 2024 after them): a map becomes
relevance, 0 … 1 over the picture's pixels; what is above a threshold is foreground. Sums over
pictures of what is counted here give pixel accuracy and intersection over union; the mean of the
average precisions is the mAP.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.images.mask_values import FOREGROUND, IGNORED
from storage.errors import NotFinite

# A power of two: no rounding decides on which side of a bin's edge a relevance lies.
BINS = 64
# Pictures that a CPU scores at a time: what they take stays in its cache.
_CACHED = 4
# What an ignored pixel is sorted by: its relevance is less than any, and it is no truth.
_NOTHING = -2


@dataclass(frozen=True, eq=False)
class Scores:
    """What a batch of maps has right; the second axis ``c`` is background, foreground.

    Attributes
    ----------
    counted_b : (batch,) int64
        Pixels that are not ignored.
    correct_b : (batch,) int64
        Those of them that the map has on the right side of the threshold.
    intersection_bc, union_bc : (batch, 2) int64
        Pixels that are of a side by mask and map, and by either.
    average_precision_b : (batch,) float64
        NaN where no pixel is counted.
    curve_bcn : (batch, 2, BINS) int64
        Pixels of background and foreground whose relevance r has n ≤ r · BINS < n + 1; 1 counts
        to the last.
    """

    counted_b: Tensor
    correct_b: Tensor
    intersection_bc: Tensor
    union_bc: Tensor
    average_precision_b: Tensor
    curve_bcn: Tensor


def relevance(maps_bhw: Tensor, size: tuple[int, int], clipped: bool = False) -> Tensor:
    """Maps over the patch grid as relevance of the picture's pixels.

    Bilinear to the picture's size, clipped at 0 where asked, then scaled so that the least is 0
    and the largest 1. A map that is the same everywhere tells no pixel from another: its relevance
    is 0, where the published code divides 0 by 0; so it is where clipping leaves nothing.

    Parameters
    ----------
    maps_bhw : (batch, rows, columns) float
        Scaled in their own dtype, float32 or float64; narrower ones in float32.
    size : (height, width)
        Pixels of the picture.
    clipped : bool
        Whether what is negative counts as nothing.

    Returns
    -------
    (batch, height, width), 0 … 1

    Raises
    ------
    NotFinite
        If a map holds NaN or is infinite.
    """
    maps_bhw = maps_bhw if maps_bhw.dtype == torch.float64 else maps_bhw.float()
    low_b, high_b = torch.aminmax(maps_bhw.flatten(1), dim=1)
    if lost := int((~(low_b.isfinite() & high_b.isfinite())).sum()):
        raise NotFinite(
            f"{lost:,} of {len(maps_bhw):,} maps hold NaN or are infinite: no pixel can be told "
            "foreground by them; are the model's outputs of these pictures finite?"
        )
    wide = interpolate(maps_bhw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    wide = wide.clamp(min=0) if clipped else wide
    least, most = (x[:, None, None] for x in torch.aminmax(wide.flatten(1), dim=1))
    # Between equal values interpolation rounds, and what is left of that is no relevance.
    flat = (low_b == high_b)[:, None, None] | (least == most)
    return torch.where(flat, 0, (wide - least) / torch.where(flat, 1, most - least))


def score(relevance_bhw: Tensor, masks_bhw: Tensor, threshold: float | None = None) -> Scores:
    """Hold relevance to masks.

    Counts hang on nothing but which pixels are above the threshold. Average precisions hang on
    order: pixels beyond the outermost centres of patches are equal but for rounding, which orders
    them, and moves a picture's by up to 1e-3.

    Parameters
    ----------
    relevance_bhw : (batch, height, width) float32 or float64, 0 … 1
    masks_bhw : (batch, height, width) uint8
        0 is background, ``FOREGROUND``, ``IGNORED``; on the same device.
    threshold : float, optional
        Pixels above it are foreground; by default each picture's own mean, ignored pixels
        included, as published.
    """
    if relevance_bhw.device.type == "cpu" and len(relevance_bhw) > _CACHED:
        parts = zip(relevance_bhw.split(_CACHED), masks_bhw.split(_CACHED), strict=True)
        scored = [score(*part, threshold) for part in parts]
        return Scores(*(torch.cat([getattr(s, f.name) for s in scored]) for f in fields(Scores)))
    relevance_bp, masks_bp = relevance_bhw.flatten(1), masks_bhw.flatten(1)
    truth_bp, valid_bp = masks_bp == FOREGROUND, masks_bp != IGNORED
    if threshold is None:
        # float64: a sum in float32 may hang on how many pictures are added up at once.
        above = relevance_bp.mean(1, dtype=torch.float64)[:, None].to(relevance_bp.dtype)
        found_bp = relevance_bp > above
    else:
        found_bp = relevance_bp > threshold
    counted, truth = valid_bp.sum(1), truth_bp.sum(1)
    both, found = (found_bp & truth_bp).sum(1), (found_bp & valid_bp).sum(1)
    neither = counted - truth - found + both
    return Scores(
        counted,
        both + neither,
        torch.stack([neither, both], 1),
        torch.stack([counted - both, counted - neither], 1),
        _average_precision(relevance_bp, truth_bp, valid_bp),
        _curve(relevance_bp, truth_bp, valid_bp),
    )


def _average_precision(relevance_bp: Tensor, truth_bp: Tensor, valid_bp: Tensor) -> Tensor:
    """Of the pair [1 − r, r], as one list of scores, with the mask's own pair as the truth.

    Σ_n (R_n − R_{n−1}) P_n over the distinct scores, falling, as scikit-learn's
    ``average_precision_score`` has it: equal scores are one step. The bits of floats that are not
    negative rise as the floats do, so score and truth are sorted as one integer.
    """
    integers = torch.int64 if relevance_bp.dtype == torch.float64 else torch.int32
    scores = torch.cat([1 - relevance_bp, relevance_bp], 1)
    # The shift takes the sign that a zero may have, too.
    keys = (scores.view(integers) << 1) + torch.cat([~truth_bp, truth_bp], 1)
    keys = _falling(torch.where(torch.cat([valid_bp, valid_bp], 1), keys, _NOTHING))
    hits = (keys & 1).cumsum(1, dtype=torch.int32)
    scores = keys >> 1
    last = torch.ones_like(hits, dtype=torch.bool)  # of the places with one score
    last[:, :-1] = scores[:, 1:] != scores[:, :-1]
    so_far = (hits * last).cummax(1).values  # hits up to the last score that is done with
    new = so_far.clone()
    new[:, 1:] -= so_far[:, :-1]
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)
    return (new * (hits / places)).sum(1) / hits[:, -1]


def _falling(keys_bn: Tensor) -> Tensor:
    """Each row in falling order."""
    if keys_bn.device.type == "cpu":
        # NumPy sorts integers alone in a twentieth of the time that torch takes, which also
        # finds where each came from.
        rising = np.sort((~keys_bn).numpy(), axis=1)
        return ~torch.from_numpy(rising)
    return keys_bn.sort(1, descending=True).values


def _curve(relevance_bp: Tensor, truth_bp: Tensor, valid_bp: Tensor) -> Tensor:
    """Pixels by side and bin of relevance, (batch, 2, BINS)."""
    batch = len(relevance_bp)
    bins = (relevance_bp * BINS).int().clamp_(max=BINS - 1)
    rows = torch.arange(batch, device=bins.device, dtype=torch.int32)[:, None]
    cells = (2 * rows + truth_bp) * BINS + bins
    nowhere = 2 * batch * BINS
    cells = torch.where(valid_bp, cells, nowhere)
    counts = torch.bincount(cells.flatten(), minlength=nowhere + 1)[:nowhere]
    return counts.reshape(batch, 2, BINS)
