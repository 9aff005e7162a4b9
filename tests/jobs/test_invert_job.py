"""Figures of inversions, from pictures that are given."""

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.invert import BOTH, PERCEPTUAL, Models, measure
from pipeline.rosetta.models import load_units

STARTS, PICTURES = 3, 5


@pytest.fixture(scope="module")
def models() -> Models:
    judge = load_units("microworld-mae")
    return Models(judge, judge, judge, pd.DataFrame(), pd.DataFrame())


def noisy(targets: torch.Tensor, db: np.ndarray) -> torch.Tensor:
    """Pictures at chosen signal-to-noise ratios, (starts, n, 3, h, w)."""
    off = torch.tensor(2 * 10 ** (-db / 20), dtype=torch.float32)  # pictures are in -1 … 1
    return targets + off[:, :, None, None, None]


def test_intervals_are_over_pictures_and_spreads_over_starts(models):
    targets = torch.rand(PICTURES, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    first = np.full((STARTS, PICTURES), 10.0)
    # Guidance adds 0 … 4 dB by picture, and 1 dB more or less by start.
    gain = np.arange(PICTURES) + np.array([-1.0, 0.0, 1.0])[:, None]
    found = {PERCEPTUAL: noisy(targets, first), BOTH: noisy(targets, first + gain)}
    table = measure(models, targets, found).set_index("loss")
    row = table.loc[BOTH]
    assert row["psnr"] == pytest.approx(12, abs=1e-3)
    assert row["psnr_change"] == pytest.approx(2, abs=1e-3)
    assert 0.2 < row["psnr_low"] < 1.2
    assert 2.8 < row["psnr_high"] < 3.8
    assert row["psnr_start_low"] == pytest.approx(1, abs=1e-3)
    assert row["psnr_start_high"] == pytest.approx(3, abs=1e-3)
    assert row["psnr_start_std"] == pytest.approx(np.std([-1, 0, 1]), abs=1e-3)
    same = table.loc[PERCEPTUAL]
    assert same["psnr_low"] == same["psnr_high"] == same["psnr_start_std"] == 0
    # More starts that end alike say nothing more of the pictures.
    twice = {name: torch.cat([tries, tries]) for name, tries in found.items()}
    again = measure(models, targets, twice).set_index("loss").loc[BOTH]
    assert again["psnr_low"] == pytest.approx(row["psnr_low"], abs=1e-5)
