"""Figures and intervals against plain loops over pictures drawn again."""

from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.heatmaps.parts import picture_rows, write_part
from pipeline.heatmaps.scores import BINS, score
from pipeline.heatmaps.summary import NothingToCount, cases, summary
from pipeline.heatmaps.tables import FIGURES, SEGMENTATION
from storage.results import as_table
from tests.pipeline.heatmaps.plain_protocol import PlainScores, plain_figures, plain_score

METHODS = ("raw-attention", "tokens last:4", "random")
IMAGES, SIDE, RESAMPLES, SEED = 14, 6, 40, 5
CLASSES = [("cat", "dog", "bird")[i % 3] for i in range(IMAGES)]


@cache
def made() -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Masks, relevance of each method, and areas of deletion."""
    rng = np.random.default_rng(2)
    masks = rng.choice(np.array([0, 0, 1, 1, 255], np.uint8), (IMAGES, SIDE, SIDE))
    noise = {"raw-attention": 0.8, "tokens last:4": 0.5, "random": 20.0}
    shown = {
        m: 1 / (1 + np.exp(-1.0 * (masks == 1) - rng.normal(size=masks.shape) * noise[m]))
        for m in METHODS
    }
    return masks, shown, {m: rng.uniform(size=IMAGES) for m in METHODS}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[str]:
    """In batches, and in two parts whose pictures do not come in order."""
    folder = tmp_path_factory.mktemp("parts")
    masks, shown, deletion = made()
    urls = []
    for name, images in (("b", range(8, IMAGES)), ("a", range(8))):
        rows = []
        for batch in np.array_split(np.array(images), 2):
            for method in METHODS:
                scored = score(
                    torch.from_numpy(shown[method][batch]), torch.from_numpy(masks[batch])
                )
                rows.append(
                    picture_rows(
                        batch,
                        [f"k{i}" for i in batch],
                        [CLASSES[i] for i in batch],
                        method,
                        "aligned",
                        scored,
                        deletion[method][batch],
                    )
                )
        urls.append(str(folder / f"part-{name}.parquet"))
        write_part(urls[-1], rows)
    return urls


@cache
def one(method: str, image: int) -> PlainScores:
    masks, shown, _ = made()
    return plain_score(shown[method][image], masks[image], None)


def plain(images: list[int], method: str) -> dict[str, float]:
    deletion = made()[2]
    scored = [one(method, i) for i in images]
    return {
        **plain_figures(scored),
        "deletion": float(np.mean([deletion[method][i] for i in images])),
    }


def resampled(images: list[int]) -> list[list[int]]:
    """Pictures drawn again: the same for every method."""
    draws = np.random.default_rng(SEED).integers(len(images), size=(RESAMPLES, len(images)))
    return [[images[i] for i in draw] for draw in draws]


def test_figures_and_intervals_are_those_of_plain_loops(parts):
    found = summary(parts, METHODS, ["aligned"], RESAMPLES, SEED)
    everything = list(range(IMAGES))
    of_classes = {c: [i for i in everything if CLASSES[i] == c] for c in sorted(set(CLASSES))}
    drawn: dict[str, pd.DataFrame] = {}
    for method in METHODS:
        row = found["methods"].set_index("method").loc[method]
        assert row["images"] == IMAGES
        drawn[method] = pd.DataFrame([plain(images, method) for images in resampled(everything)])
        for figure, value in plain(everything, method).items():
            assert row[figure] == pytest.approx(value, rel=1e-12)
            ends = np.quantile(drawn[method][figure], [0.025, 0.975])
            assert row[[f"{figure}_low", f"{figure}_high"]].tolist() == pytest.approx(ends)
        assert np.isnan(row["insertion"])
    assert found["classes"]["class"].drop_duplicates().tolist() == list(of_classes)
    for row in found["classes"].to_dict("records"):
        images = of_classes[row["class"]]
        assert row["images"] == len(images)
        assert row["miou"] == pytest.approx(plain(images, row["method"])["miou"], rel=1e-12)
        again = [plain(i, row["method"])["map"] for i in resampled(images)]
        assert row["map_low"] == pytest.approx(np.quantile(again, 0.025))
    for row in found["differences"].to_dict("records"):
        figure, pair = row["figure"], (row["method"], row["against"])
        own, other = (plain(everything, m)[figure] for m in pair)
        assert row["change"] == pytest.approx(own - other, abs=1e-12)
        ends = np.quantile(drawn[pair[0]][figure] - drawn[pair[1]][figure], [0.025, 0.975])
        assert [row["change_low"], row["change_high"]] == pytest.approx(ends.tolist())


def test_methods_are_set_against_the_best_and_the_baseline(parts):
    found = summary(parts, METHODS, ["aligned"], RESAMPLES, SEED)
    methods, differences = found["methods"].set_index("method"), found["differences"]
    assert set(differences["figure"]) == set(FIGURES) - {"insertion"}
    for figure, of in differences.groupby("figure"):
        best = methods[figure].idxmin() if figure == "deletion" else methods[figure].idxmax()
        pairs = {(m, a) for a in {best, "raw-attention"} for m in METHODS if m != a}
        assert set(zip(of["method"], of["against"], strict=True)) == pairs


def test_curve_counts_every_pixel(parts):
    masks, shown, _ = made()
    curve = summary(parts, METHODS, ["aligned"], RESAMPLES, SEED)["curve"]
    assert set(curve["method"]) == set(METHODS)
    for row in curve.to_dict("records"):
        found = shown[row["method"]] >= row["threshold"]
        right, wrong = ((found & (masks == side)).sum() for side in (1, 0))
        assert row["precision"] == pytest.approx(right / (right + wrong), rel=1e-12)
        assert row["recall"] == pytest.approx(right / (masks == 1).sum(), rel=1e-12)
    assert curve["threshold"].isin(np.arange(BINS) / BINS).all()


def test_tables_are_as_their_schemas_say(parts):
    for name, table in summary(parts, METHODS, ["aligned"], RESAMPLES, SEED).items():
        assert as_table(table, SEGMENTATION[name]).schema.equals(SEGMENTATION[name])
    assert pq.read_schema(parts[0]).equals(SEGMENTATION["pictures"])


def test_a_method_is_read_without_the_others(parts):
    groups = pq.ParquetFile(parts[0]).metadata
    assert groups.num_row_groups == len(METHODS)


def test_cases_are_the_worst_the_middle_and_the_best(parts):
    scored = [one(METHODS[0], i) for i in range(IMAGES)]
    iou = np.array([s.intersection[1] / s.union[1] for s in scored])
    rising = np.argsort(iou, kind="stable").tolist()
    found = cases(parts, METHODS[0], "aligned", each=2)
    assert [(c.case, c.image) for c in found] == [
        *(("worst", i) for i in rising[:2]),
        *(("middle", i) for i in rising[6:8]),
        *(("best", i) for i in rising[-2:]),
    ]
    assert [c.iou for c in found] == pytest.approx([iou[c.image] for c in found])
    assert len(cases(parts, METHODS[0], "aligned", each=100)) == IMAGES


def test_pictures_without_pixels_to_count_are_left_out(tmp_path):
    def write(masks: torch.Tensor) -> list[str]:
        n = len(masks)
        scored = score(torch.rand(masks.shape), masks)
        rows = picture_rows(np.arange(n), ["k"] * n, ["c"] * n, "tokens", "aligned", scored)
        write_part(str(tmp_path / "part.parquet"), [rows])
        return [str(tmp_path / "part.parquet")]

    masks = torch.ones(3, 2, 2, dtype=torch.uint8)
    masks[1] = 255
    found = summary(write(masks), ["tokens"], ["aligned"], 10)
    assert found["methods"]["images"].tolist() == [2]
    with pytest.raises(NothingToCount, match="no picture has a pixel"):
        summary(write(masks[1:2]), ["tokens"], ["aligned"], 10)


def test_areas_are_means_over_the_pictures_that_have_them(tmp_path):
    masks = torch.ones(4, 2, 2, dtype=torch.uint8)
    scored = score(torch.rand(masks.shape), masks)
    areas = np.array([0.2, np.nan, 0.4, np.nan])
    rows = picture_rows(np.arange(4), ["k"] * 4, ["c"] * 4, "tokens", "aligned", scored, areas)
    part = str(tmp_path / "part.parquet")
    write_part(part, [rows])
    assert pq.read_table(part)["deletion"].null_count == 2
    (row,) = summary([part], ["tokens"], ["aligned"], 50)["methods"].to_dict("records")
    assert row["deletion"] == pytest.approx(0.3)
    assert row["deletion_low"] == pytest.approx(0.2)
    assert row["deletion_high"] == pytest.approx(0.4)
    assert np.isnan([row["insertion"], row["insertion_low"]]).all()


def test_methods_of_other_pictures_are_refused(parts, tmp_path):
    table = pq.read_table(parts[0])
    method, image = table["method"].to_numpy(), table["image"].to_numpy()
    fewer = table.filter(pa.array((method != "random") | (image != 9)))
    write_part(str(tmp_path / "part.parquet"), [fewer])
    with pytest.raises(ValueError, match="random was held to other pictures than raw-attention"):
        summary([parts[1], str(tmp_path / "part.parquet")], METHODS, ["aligned"], 10)
