"""How like a picture is to another: PSNR and SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Constants of Wang et al. 2004.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def psnr(images_bchw: Tensor, targets_bchw: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (b,); pictures in 0 … 1."""
    error_b = (images_bchw - targets_bchw).square().flatten(1).mean(1)
    return -10 * error_b.log10()


def ssim(images_bchw: Tensor, targets_bchw: Tensor) -> Tensor:
    """Structural similarity, (b,): the mean over channels and windows inside the picture.

    Gaussian windows of 11 × 11 with σ = 1.5, as in section III.C of the paper; pictures in 0 … 1.
    """
    channels = images_bchw.shape[1]
    offsets = torch.arange(WINDOW, dtype=images_bchw.dtype) - WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * SIGMA**2))
    line = (line / line.sum()).to(images_bchw.device)
    kernel = (line[:, None] * line).expand(channels, 1, -1, -1)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, groups=channels)

    x, y = mean(images_bchw), mean(targets_bchw)
    xx = mean(images_bchw * images_bchw) - x * x
    yy = mean(targets_bchw * targets_bchw) - y * y
    xy = mean(images_bchw * targets_bchw) - x * y
    c1, c2 = K1**2, K2**2
    similarity = (2 * x * y + c1) * (2 * xy + c2) / ((x * x + y * y + c1) * (xx + yy + c2))
    return similarity.flatten(1).mean(1)
