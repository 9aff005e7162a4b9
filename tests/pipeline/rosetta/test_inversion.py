"""Inversion, edits and figures on a generator of a few numbers, against the equations."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.rosetta.edits import copy_paste, remove, shift, zoom
from pipeline.rosetta.image_figures import psnr, ssim
from pipeline.rosetta.inversion import (
    Guidance,
    InversionError,
    invert,
    learning_rates,
    perceptual_distance,
)


class Layer:
    def __init__(self, name, units, size):
        self.name, self.units, self.size = name, units, size


class Card:
    def __init__(self, name, layers, latent=None):
        self.name, self.layers, self.latent = name, layers, latent


class Tiny:
    """A unit model of two layers, as `UnitModel` is used here."""

    def __init__(self, name="g", latent=5, seed=0):
        self.card = Card(name, [Layer("up1", 3, (4, 4)), Layer("up2", 2, (8, 8))], latent)
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(latent, 48), nn.Conv2d(3, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 3, 1)

    def maps(self, latents):
        one = self.first(latents).unflatten(1, (3, 4, 4)).tanh()
        two = self.second(F.interpolate(one, scale_factor=2)).tanh()
        return self.last(two).tanh(), [one.permute(0, 2, 3, 1), two.permute(0, 2, 3, 1)]


PAIRS = pd.DataFrame(
    {
        "layer_a": ["up1", "up2", "up1"],
        "unit_a": [2, 0, 0],
        "layer_b": ["up2", "up2", "up1"],
        "unit_b": [1, 0, 2],
    }
)
UNITS = pd.DataFrame(
    [
        {"model": m, "layer": layer, "unit": u, "mean": 0.1 * u + 0.05, "std": 0.5 + 0.1 * u}
        for m in ("g", "d")
        for layer, n in (("up1", 3), ("up2", 2))
        for u in range(n)
    ]
)


def test_similarity_is_the_equation_pair_by_pair():
    generator, guide = Tiny(), Tiny("d", seed=1)
    latents = torch.randn(4, 5)
    ours, theirs = generator.maps(latents)[1], guide.maps(latents)[1]
    guidance = Guidance(generator, guide, PAIRS, UNITS)
    found = guidance.similarity(ours, guidance.targets(theirs))
    total = torch.zeros(4)
    layers = {"up1": 0, "up2": 1}
    for row in PAIRS.itertuples():
        g = ours[layers[row.layer_a]][..., row.unit_a]
        d = theirs[layers[row.layer_b]][..., row.unit_b]
        size = max(g.shape[1], d.shape[1])
        g, d = (
            F.interpolate(x[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
            for x in (g, d)
        )
        g = (g - (0.1 * row.unit_a + 0.05)) / (0.5 + 0.1 * row.unit_a)
        d = (d - (0.1 * row.unit_b + 0.05)) / (0.5 + 0.1 * row.unit_b)
        total += (g * d).mean((1, 2))
    torch.testing.assert_close(found, total / 3)


def test_inversion_finds_what_a_latent_made():
    generator = Tiny()
    targets = torch.randn(3, 5)
    images, maps = generator.maps(targets)
    images = images.detach()

    def loss(made, _maps):
        return (made - images).square().mean((1, 2, 3))

    start = torch.zeros(3, 5)
    before = loss(generator.maps(start)[0], None)
    found = invert(generator, loss, start, steps=300, rate=0.1, alpha=0.0)
    after = loss(generator.maps(found)[0], None)
    assert (after < 0.05 * before).all()
    pairs = PAIRS.assign(layer_b=PAIRS.layer_a, unit_b=PAIRS.unit_a)
    guidance = Guidance(generator, generator, pairs, UNITS)
    wanted = guidance.targets(maps)
    led = invert(generator, lambda _made, maps: -guidance.similarity(maps, wanted), start, steps=50)
    assert (
        guidance.similarity(generator.maps(led)[1], wanted)
        > guidance.similarity(generator.maps(start)[1], wanted)
    ).all()


def test_latents_that_run_away_are_refused():
    with pytest.raises(InversionError, match="NaN or infinite in 3 steps: take a lower `rate`"):
        invert(Tiny(), lambda made, _: made.sum((1, 2, 3)), torch.zeros(2, 5), steps=3,
               rate=1e30)  # fmt: skip


def test_images_are_inverted_apart_from_each_other():
    generator = Tiny()
    images = generator.maps(torch.randn(3, 5))[0].detach()
    start = torch.randn(3, 5)

    def loss_of(wanted):
        return lambda made, _maps: (made - wanted).square().mean((1, 2, 3))

    together = invert(generator, loss_of(images), start, steps=20)
    alone = invert(generator, loss_of(images[1:2]), start[1:2], steps=20)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_the_rate_rises_for_a_twentieth_and_falls_for_a_quarter():
    rates = list(learning_rates(100, 2.0))
    np.testing.assert_allclose(rates[:6], [0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert rates[5:76] == [2.0] * 71
    assert all(a > b for a, b in pairwise(rates[76:]))
    assert rates[-1] < 0.02


def test_mistakes_are_named():
    generator = Tiny()
    with pytest.raises(InversionError, match="share no unit"):
        Guidance(generator, generator, PAIRS[:0], UNITS)
    with pytest.raises(InversionError, match=r"\(2, 4\); g takes \(n, 5\)"):
        invert(generator, lambda made, maps: made.sum(), torch.zeros(2, 4))


def test_perceptual_distance_is_zero_only_for_the_same_directions():
    maps = [torch.randn(2, 3, 3, 4), torch.randn(2, 6, 6, 5)]
    assert perceptual_distance(maps, [2 * m for m in maps]).abs().max() < 1e-6
    opposite = perceptual_distance(maps, [-m for m in maps])
    torch.testing.assert_close(opposite, torch.full((2,), 8.0))


def test_edits_move_what_they_say():
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 3, 2] = 1
    assert shift(right=0.25)(maps)[0, 0, 3].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert shift(down=-0.25)(maps)[0, 0, :, 2].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert shift(right=1.0)(maps).abs().sum() == 0
    assert shift(right=0.25)(maps[..., ::2, ::2]).shape == (1, 1, 4, 4)
    pasted = copy_paste()(maps)[0, 0, 3]
    assert pasted.tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    centre = torch.zeros(1, 1, 8, 8)
    centre[..., 3:5, 3:5] = 1
    large = zoom(centre)
    assert large.shape == centre.shape
    assert float(large.sum()) == pytest.approx(4 * float(centre.sum()))
    assert (remove(maps - 3) == -3).all()


def direct_ssim(x, y):
    """One channel, window by window."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            top = (2 * ma * mb + 0.01**2) * (2 * cov + 0.03**2)
            values.append(top / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2)))
    return np.mean(values)


def test_figures_are_those_of_their_equations():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 2, 3, 16, 14))
    one, other = torch.from_numpy(x), torch.from_numpy(y)
    expected = [np.mean([direct_ssim(x[b, c], y[b, c]) for c in range(3)]) for b in range(2)]
    np.testing.assert_allclose(ssim(one, other), expected, rtol=1e-9)
    np.testing.assert_allclose(
        psnr(one, other), -10 * np.log10(((x - y) ** 2).mean((1, 2, 3))), rtol=1e-9
    )
    torch.testing.assert_close(ssim(one, one), torch.ones(2, dtype=torch.float64))
