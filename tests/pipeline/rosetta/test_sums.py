"""Running sums against the direct computation of Eq. 4.1-4.2."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rosetta import bilinear
from pipeline.rosetta.sums import (
    HalfMaps,
    Layout,
    PairSums,
    Sums,
    combine,
    finalize,
    runs,
    segments,
)
from storage import rosetta
from storage.rosetta import Tile, tiles
from tests.pipeline.rosetta.kit import card, direct, half_maps, random_maps

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
layers = st.lists(st.tuples(st.integers(1, 4), sizes), min_size=1, max_size=3).map(
    lambda found: [(units, *size) for units, size in found]
)


def correlate(a, b, maps_a, maps_b, tile, batches):
    """Correlations from partial sums, one for each list of batches of images."""
    layout = Layout(a, b, tile)
    merged = None
    for part in batches:
        sums = PairSums(layout)
        for images in part:
            for half in (0, 1):
                if len(members := images[images % 2 == half]):
                    sums.add(half, half_maps(maps_a, members), half_maps(maps_b, members))
        if merged is None:
            merged = sums.sums()
        else:
            combine(layout, merged, sums.sums())
    return finalize(layout, merged)


@settings(max_examples=40)
@given(layers, layers, st.integers(0, 2**32), st.data())
def test_correlations_equal_the_direct_ones(layers_a, layers_b, seed, data):
    rng = np.random.default_rng(seed)
    a, b, n = card("a", *layers_a), card("b", *layers_b), data.draw(st.integers(4, 14))
    maps_a, maps_b = random_maps(rng, a, n), random_maps(rng, b, n)
    order = rng.permutation(n)
    batches = np.split(order, np.sort(rng.integers(0, n + 1, data.draw(st.integers(0, 5)))))
    cut = data.draw(st.integers(0, len(batches)))
    partials = [p for p in (batches[:cut], batches[cut:]) if p]
    start = data.draw(st.integers(0, a.units - 1))
    stop = data.draw(st.integers(start + 1, a.units))
    found = correlate(a, b, maps_a, maps_b, Tile("a", "b", start, stop), partials)
    for name, images in (
        ("whole", slice(None)), ("even", slice(0, None, 2)), ("odd", slice(1, None, 2)),
    ):  # fmt: skip
        expected = direct([m[images] for m in maps_a], [m[images] for m in maps_b])[start:stop]
        got = getattr(found, name)
        alive = np.isfinite(got)
        assert np.isfinite(expected)[alive].all()
        np.testing.assert_allclose(got[alive], expected[alive], atol=1e-6)
    varies = [np.concatenate([m.std((0, 1, 2)) > 1e-5 for m in maps]) for maps in (maps_a, maps_b)]
    np.testing.assert_array_equal(found.a_std > 0, varies[0][start:stop])
    np.testing.assert_array_equal(found.b_std > 0, varies[1])
    expected_alive = np.outer(found.a_std > 0, found.b_std > 0)
    np.testing.assert_array_equal(np.isfinite(found.whole), expected_alive)


def test_golden_figures(shared):
    golden = np.load(shared / "golden" / "rosetta.npz")
    maps = {}
    cards = {}
    for model in "ab":
        planes = [np.concatenate([golden[f"{model}_{k}_{i}"] for k in range(3)]) for i in range(3)]
        maps[model] = [np.ascontiguousarray(p.transpose(0, 2, 3, 1)) for p in planes]
        cards[model] = card(model, *[p.shape[1:] for p in planes])
    a, b = cards["a"], cards["b"]
    (tile,) = tiles(a, b)
    batches = [[np.arange(k, k + 3)] for k in (0, 3, 6)]
    found = correlate(a, b, maps["a"], maps["b"], tile, batches)
    np.testing.assert_allclose(found.whole, golden["pearson"], atol=1e-6)
    # The published mean of per-batch scores is something else.
    assert np.abs(found.whole - golden["table"]).max() > 0.05
    np.testing.assert_allclose(found.a_mean[:6], golden["mean_a_0"], rtol=1e-6)


def test_tiles_cover_a_pair_and_give_the_same_numbers(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = card("a", (3, 4, 4), (4, 2, 2)), card("b", (5, 3, 3))
    maps_a, maps_b = random_maps(rng, a, 6), random_maps(rng, b, 6)
    (whole,) = tiles(a, b)
    monkeypatch.setattr(rosetta, "TILE_BYTES", 2 * 2 * 8 * b.units)
    grid = tiles(a, b)
    assert [(t.start, t.stop) for t in grid] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    batches = [[np.arange(3)], [np.arange(3, 6)]]
    rows = [correlate(a, b, maps_a, maps_b, tile, batches) for tile in grid]
    expected = correlate(a, b, maps_a, maps_b, whole, batches)
    np.testing.assert_allclose(np.concatenate([r.whole for r in rows]), expected.whole, atol=1e-7)
    np.testing.assert_array_equal(np.concatenate([r.a_std for r in rows]), expected.a_std)
    assert [s.layer for s in segments(a, 2, 4)] == [0, 1]


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (1, 8), (3, 4), (6, 11)])
def test_neighbouring_layers_of_one_size_are_counted_together(start, stop):
    rng = np.random.default_rng(4)
    a = card("a", (2, 4, 4), (3, 4, 4), (2, 2, 2), (1, 4, 4), (3, 4, 4))
    b = card("b", (3, 3, 3), (1, 3, 3), (2, 3, 3), (2, 5, 2))
    maps_a, maps_b = random_maps(rng, a, 12), random_maps(rng, b, 12)
    assert [len(run.segments) for run in runs(segments(a, 0, a.units))] == [2, 1, 2]
    batches = [[np.arange(5), np.arange(5, 8)], [np.arange(8, 12)]]
    found = correlate(a, b, maps_a, maps_b, Tile("a", "b", start, stop), batches)
    expected = direct(maps_a, maps_b)[start:stop]
    np.testing.assert_allclose(found.whole, expected, atol=1e-6)
    for name, maps in (("a", maps_a), ("b", maps_b)):
        mean, std = (np.concatenate([of(m, (0, 1, 2)) for m in maps]) for of in (np.mean, np.std))
        part = slice(start, stop) if name == "a" else slice(None)
        np.testing.assert_allclose(getattr(found, f"{name}_mean"), mean[part], rtol=1e-5)
        np.testing.assert_allclose(getattr(found, f"{name}_std"), std[part], rtol=1e-5)


def test_units_that_never_vary_are_nan_and_have_no_deviation():
    rng = np.random.default_rng(1)
    a, b = card("a", (4, 3, 3)), card("b", (2, 6, 6))
    maps_a, maps_b = random_maps(rng, a, 8), random_maps(rng, b, 8)
    maps_a[0][..., 1] = 0
    maps_a[0][..., 2] = 0.1
    maps_a[0][::2, ..., 3] = 5.7  # never varies over even images
    (tile,) = tiles(a, b)
    found = correlate(a, b, maps_a, maps_b, tile, [[np.arange(8)]])
    assert np.isnan(found.whole[1:3]).all()
    assert np.isfinite(found.whole[[0, 3]]).all()
    assert np.isnan(found.even[3]).all()
    assert np.isfinite(found.odd[3]).all()
    assert (found.a_std[1:3] == 0).all()
    assert (found.a_std[[0, 3]] > 0).all()
    assert found.a_mean[1] == 0
    np.testing.assert_allclose(found.a_mean[2], 0.1, rtol=1e-6)


def test_a_large_offset_and_a_drift_do_not_spoil_float32():
    rng = np.random.default_rng(2)
    a, b = card("a", (3, 5, 5)), card("b", (3, 7, 4))
    maps_a, maps_b = random_maps(rng, a, 40), random_maps(rng, b, 40)
    # Nothing for the first half of the images, then far from zero: a fixed shift would lose digits.
    for maps in (maps_a, maps_b):
        maps[0][:20] = 0
        maps[0][20:] += 100
    (tile,) = tiles(a, b)
    batches = [[np.arange(i, i + 4)] for i in range(0, 40, 4)]
    found = correlate(a, b, maps_a, maps_b, tile, batches)
    np.testing.assert_allclose(found.whole, direct(maps_a, maps_b), atol=1e-6)


@settings(max_examples=30)
@given(sizes, sizes, st.integers(0, 2**32))
def test_the_adjoint_and_the_moments_of_interpolated_maps(own, other, seed):
    torch.manual_seed(seed % 2**31)
    target, small = bilinear.larger(own, other), bilinear.smaller(own, other)
    a = torch.randn(2, *own, 3, dtype=torch.float64)
    b = torch.randn(2, *other, 3, dtype=torch.float64)

    def up(maps):
        planes = maps.permute(0, 3, 1, 2)
        return F.interpolate(planes, size=target, mode="bilinear", align_corners=False)

    wide = torch.einsum("bcij,bdij->cd", up(a), up(b))
    narrow = torch.einsum("bijc,bijd->cd", bilinear.pull(a, small), bilinear.pull(b, small))
    torch.testing.assert_close(narrow, wide)
    maps = HalfMaps([a.clone()])
    _, mean, m2 = maps.moments(0, target)
    torch.testing.assert_close(mean, up(a).mean((0, 2, 3)))
    torch.testing.assert_close(
        m2, (up(a) - mean[:, None, None]).square().sum((0, 2, 3)), atol=1e-9, rtol=1e-9
    )


def test_sums_survive_a_disk(tmp_path):
    rng = np.random.default_rng(3)
    a, b = card("a", (3, 4, 4)), card("b", (5, 2, 2))
    (tile,) = tiles(a, b)
    sums = PairSums(Layout(a, b, tile))
    maps = [half_maps(random_maps(rng, c, 4), np.arange(4)) for c in (a, b)]
    sums.add(1, *maps)
    rosetta.write_sums(str(tmp_path), tile, (3, 3), sums.sums().arrays())
    assert rosetta.done_spans(str(tmp_path), tile) == {(3, 3)}
    back = Sums(**rosetta.read_sums(str(tmp_path), tile, (3, 3)))
    for name, value in sums.sums().arrays().items():
        np.testing.assert_array_equal(getattr(back, name), value)


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([(0, 0), (1, 1)], [(0, 0), (1, 1)]),
        ([(0, 7), (3, 3), (0, 0), (8, 8)], [(0, 7), (8, 8)]),
        ([], []),
    ],
)
def test_outermost_spans(spans, kept):
    assert rosetta.outermost(spans) == kept


def test_groups_are_merged_in_one_order():
    ones = {(i, i) for i in range(16)}
    assert rosetta.complete_group(ones, (9, 9)) == [(i, i) for i in range(8, 16)]
    assert rosetta.complete_group(ones - {(8, 8)}, (9, 9)) == []
    eights = {(i, i + 7) for i in range(0, 64, 8)}
    assert len(rosetta.complete_group(eights, (8, 15))) == 8
