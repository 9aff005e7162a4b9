"""Relevance and scores against plain loops, scikit-learn and the published numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from pipeline.heatmaps.scores import BINS, relevance, score
from storage.errors import NotFinite
from tests.pipeline.heatmaps.plain_protocol import plain_figures, plain_relevance, plain_score

SIZES = st.integers(1, 9)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31), batch=st.integers(1, 6), rows=st.integers(1, 5),
    columns=st.integers(1, 5), height=SIZES, width=SIZES, clipped=st.booleans(),
)  # fmt: skip
def test_relevance_is_that_of_plain_loops(seed, batch, rows, columns, height, width, clipped):
    maps = torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, rows, columns)))
    found = relevance(maps, (height, width), clipped)
    for one, by_hand in zip(found, maps.numpy(), strict=True):
        expected = plain_relevance(by_hand, (height, width), clipped)
        np.testing.assert_allclose(one, expected, atol=1e-12)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31), batch=st.integers(1, 9), pixels=st.integers(1, 12),
    levels=st.sampled_from([2, 3, 7, 10**9]), dtype=st.sampled_from([np.float32, np.float64]),
    threshold=st.sampled_from([None, 0.5]),
)  # fmt: skip
def test_scores_are_those_of_plain_loops(seed, batch, pixels, levels, dtype, threshold):
    """Few levels are many ties, among them those of r and 1 − r."""
    rng = np.random.default_rng(seed)
    shape = (batch, pixels, pixels)
    relevances = (rng.integers(0, levels + 1, shape) / levels).astype(dtype)
    masks = rng.choice(np.array([0, 1, 1, 255], np.uint8), shape)
    found = score(torch.from_numpy(relevances), torch.from_numpy(masks), threshold)
    for i in range(batch):
        expected = plain_score(relevances[i], masks[i], threshold)
        assert found.counted_b[i] == expected.counted
        assert found.correct_b[i] == expected.correct
        assert found.intersection_bc[i].tolist() == expected.intersection
        assert found.union_bc[i].tolist() == expected.union
        np.testing.assert_allclose(
            found.average_precision_b[i], expected.average_precision, rtol=1e-12
        )
        for side in (0, 1):
            of_side = relevances[i][masks[i] == side]
            edges = np.arange(BINS + 1) / BINS
            assert found.curve_bcn[i, side].tolist() == np.histogram(of_side, edges)[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_average_precision_of_a_whole_picture_is_scikit_learns(dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 14, 14, generator=generator, dtype=dtype)
    shown = relevance(maps, (224, 224), clipped=True)  # half of it is 0
    masks = (torch.rand(3, 224, 224, generator=generator) < 0.3).to(torch.uint8)
    found = score(shown, masks)
    for r, m, precision in zip(
        shown.numpy(), masks.numpy(), found.average_precision_b, strict=True
    ):
        pair, truth = np.stack([1 - r, r]).ravel(), np.stack([1 - m, m]).ravel()
        assert float(precision) == pytest.approx(average_precision_score(truth, pair), rel=1e-12)


def test_equal_and_empty_maps_find_no_foreground():
    maps = torch.stack([torch.full((3, 3), 0.1), -torch.rand(3, 3), torch.zeros(3, 3)])
    shown = relevance(maps, (7, 5), clipped=True)
    assert not shown.any()
    masks = torch.zeros(3, 7, 5, dtype=torch.uint8)
    masks[:, :2] = 1
    found = score(shown, masks)
    assert found.intersection_bc.tolist() == [[25, 0]] * 3
    # All of both lists stand at two scores: every background is found before any foreground.
    expected = plain_score(shown[0].numpy(), masks[0].numpy(), None).average_precision
    np.testing.assert_allclose(found.average_precision_b, expected)


def test_a_picture_without_pixels_has_no_average_precision():
    found = score(torch.rand(1, 4, 4), torch.full((1, 4, 4), 255, dtype=torch.uint8))
    assert found.counted_b.tolist() == [0]
    assert found.average_precision_b.isnan().all()
    assert not found.curve_bcn.any()


def test_zero_has_no_sign():
    shown = torch.tensor([[[0.0, -0.0, 1.0, -0.0]]])
    mask = torch.tensor([[[1, 0, 1, 0]]], dtype=torch.uint8)
    expected = plain_score(shown[0].numpy(), mask[0].numpy(), None).average_precision
    np.testing.assert_allclose(score(shown, mask).average_precision_b[0], expected)


def test_neither_batch_nor_order_matters():
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(11, 4, 4, generator=generator)
    masks = torch.randint(0, 2, (11, 32, 32), generator=generator).to(torch.uint8)
    whole = score(relevance(maps, (32, 32)), masks)
    turned = torch.arange(10, -1, -1)
    again = score(relevance(maps[turned], (32, 32)), masks[turned])
    for name in ("correct_b", "union_bc", "average_precision_b", "curve_bcn"):
        assert torch.equal(getattr(again, name)[turned], getattr(whole, name))
    for i in range(11):
        one = score(relevance(maps[i : i + 1], (32, 32)), masks[i : i + 1])
        assert torch.equal(one.average_precision_b[0], whole.average_precision_b[i])
        assert torch.equal(one.correct_b[0], whole.correct_b[i])


def test_maps_that_are_not_finite_are_refused():
    maps = torch.zeros(3, 2, 2)
    maps[1, 0, 0] = torch.nan
    with pytest.raises(NotFinite, match="1 of 3 maps"):
        relevance(maps, (4, 4))


def test_published_numbers(shared):
    """golden/segmentation.npz, from the heat on."""
    golden = np.load(shared / "golden" / "segmentation.npz")
    shown = relevance(torch.from_numpy(golden["heat"]), golden["masks"].shape[1:], clipped=True)
    np.testing.assert_allclose(shown, golden["relevance"], atol=1e-12)
    found = score(shown, torch.from_numpy(golden["masks"]))
    iou = (found.intersection_bc.sum(0) / found.union_bc.sum(0)).numpy()
    accuracy = float(found.correct_b.sum() / found.counted_b.sum())
    assert accuracy == pytest.approx(float(golden["pixel_accuracy"]), abs=1e-6)
    np.testing.assert_allclose(iou, golden["iou"], atol=1e-6)
    mean = float(found.average_precision_b.mean())
    assert mean == pytest.approx(float(golden["map"]), abs=1e-6)


def test_published_numbers_by_the_plain_protocol(shared):
    """That the loops are the published protocol.

    Precisions are of the published relevance: pixels at a picture's border that are equal by the
    formula differ there by rounding, and are no ties, which moves a picture's by up to 8e-4.
    """
    golden = np.load(shared / "golden" / "segmentation.npz")
    for heat, shown in zip(golden["heat"], golden["relevance"], strict=True):
        np.testing.assert_allclose(plain_relevance(heat, shown.shape, True), shown, atol=1e-12)
    pictures = zip(golden["relevance"], golden["masks"], strict=True)
    figures = plain_figures([plain_score(r, m, None) for r, m in pictures])
    expected = {
        "accuracy": golden["pixel_accuracy"],
        "iou_background": golden["iou"][0],
        "iou_foreground": golden["iou"][1],
        "miou": golden["miou"],
        "map": golden["map"],
    }
    assert figures == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-6)
