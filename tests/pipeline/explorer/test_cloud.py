"""All images as points, and pictures of them, against plain loops."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.explorer import cloud_picture, head_rows
from pipeline.explorer.cloud import Box, Cloud, cloud
from pipeline.explorer.cloud_picture import Colouring, draw
from pipeline.explorer.colours import SEQUENTIAL
from pipeline.explorer.head_map import box_of
from pipeline.explorer.head_rows import head_of
from pipeline.explorer.library import NotHere
from storage import urls
from storage.errors import FacetError
from storage.reductions import REDUCTIONS
from tests.pipeline.explorer import headed


@pytest.mark.parametrize("indexed", [True, False])
def test_points_are_what_the_head_wrote_along_its_components(tmp_path, here, indexed):
    store = headed.headed(str(tmp_path / "store"), index=indexed)
    opened = headed.library(store).stores["store"]
    for at in [(0, 0), (1, 2)]:
        found = cloud(opened, *at)
        wrote = headed.contributions(store, at)
        pca = store.reductions().head_pca(*at)
        mean = np.nanmean(wrote, axis=0)
        for image in range(40):
            for p in range(3):
                score = (wrote[image] - mean) @ pca["components"].values[p]
                # An index keeps float16.
                assert found.along_pn[p, image] == pytest.approx(
                    score, abs=2e-3 if indexed else 1e-5, nan_ok=True
                )
        assert np.isnan(found.along_pn[:, list(headed.BAD)]).all()
        assert (found.images, found.of, found.indexed) == (38, 38, indexed)
        variances = pca["variance"].values
        assert found.shares == pytest.approx(variances[:3] / variances.sum())


def test_a_store_without_an_index_is_read_here_and_there(tmp_path, here, monkeypatch):
    store = headed.headed(str(tmp_path / "store"), index=False)
    monkeypatch.setattr(head_rows, "MOST", 14)
    monkeypatch.setattr(head_rows, "RUN", 7)
    found = cloud(headed.library(store).stores["store"], 0, 0)
    seen = np.flatnonzero(~np.isnan(found.along_pn[0]))
    assert set(seen // 7) == {0, 5}  # the first shard and the last
    assert found.images == len(seen) < found.of == 38


def test_shards_that_are_not_in_are_none_of_the_points(tmp_path, here):
    store = headed.stores.new_store(
        str(tmp_path / "store"), **headed.SIZES, images=40, shard_size=7
    )
    for shard in (0, 1, 3):
        headed.index_kit.random_shard(store, shard, {})
    headed.reduce_store(store)
    headed.build(store, headed.Space(tuple(headed.HEADS)))
    found = cloud(headed.library(store).stores["store"], 1, 1)
    there = np.flatnonzero(~np.isnan(found.along_pn[0])).tolist()
    assert there == [*range(14), *range(21, 28)]
    assert found.indexed


def test_without_principal_components_there_is_no_map(tmp_path, here):
    store = headed.headed(str(tmp_path / "store"))
    urls.remove(urls.join(store.url, REDUCTIONS))
    assert cloud(headed.library(store).stores["store"], 0, 0) is None


def test_heads_that_are_not_there(tmp_path, here):
    opened = headed.library(headed.headed(str(tmp_path / "store"))).stores["store"]
    with pytest.raises(NotHere, match=r"no head 2\.0: the model of store has heads 0\.0 to 1\.2"):
        cloud(opened, 2, 0)
    for wrong in ("3", "3.", ".", "a.b", "-1.0", "1.2.3", "１.0", "9" * 50 + ".1"):
        with pytest.raises(NotHere, match="no head"):
            cloud(opened, *head_of(wrong))
    assert head_of("10.3") == (10, 3)


def of_points(x, y) -> Cloud:
    along = np.array([x, y], np.float32)
    return Cloud(along, (0.5, 0.3), along.shape[1], along.shape[1], True)


@given(st.lists(st.integers(-3, 3) | st.none(), min_size=1, max_size=30), st.integers(1, 8))
def test_the_ends_of_a_component(values, top):
    points = of_points([np.nan if v is None else v for v in values], np.zeros(len(values)))
    known = [i for i, v in enumerate(values) if v is not None]
    for lowest in (False, True):
        expected = sorted(known, key=lambda i: (values[i] if lowest else -values[i], i))[:top]
        assert points.best(0, top, lowest).tolist() == expected


def test_the_whole_map_has_all_but_the_furthest_and_true_distances():
    rng = np.random.default_rng(0)
    points = of_points(rng.normal(size=20_000), 3 * rng.normal(size=20_000))
    points.along_pn[0, 7] = 1e6
    box = points.whole
    assert box.x1 - box.x0 == pytest.approx(box.y1 - box.y0)
    assert 0.997 < len(points.inside(box)) / 20_000 < 1
    assert of_points([np.nan], [np.nan]).whole == Box(-1, 1, -1, 1)
    same = of_points([2.0, 2.0], [1.0, 1.0]).whole
    assert same.x0 < 2 < same.x1
    assert same.y0 < 1 < same.y1


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def plain_places(points: Cloud, box: Box, width: int, height: int) -> dict[tuple[int, int], list]:
    """Images by row and column of the picture, one after the other."""
    found: dict[tuple[int, int], list] = {}
    for image, (x, y) in enumerate(points.along_pn.T.astype(float)):
        across = (x - box.x0) * width / (box.x1 - box.x0)
        down = (box.y1 - y) * height / (box.y1 - box.y0)
        if 0 <= across < width and 0 <= down < height:
            found.setdefault((int(down), int(across)), []).append(image)
    return found


# Quarters, so that no rounding decides on which pixel a point falls.
QUARTERS = st.integers(-20, 20).map(lambda i: i / 4 + 0.125)


@settings(max_examples=30)
@given(st.lists(st.tuples(QUARTERS, QUARTERS, st.integers(-1, 2)), max_size=40))
def test_a_picture_has_each_point_where_it_is(listed):
    x, y, codes = (np.array(c) for c in zip(*listed, strict=True)) if listed else ([], [], [])
    points, box = of_points(x, y), Box(-4, 4, -2, 6)
    places = plain_places(points, box, 16, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloud_picture, "RADII", ())
        drawn = pixels(draw(points, box, 16, 16))
        colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
        kinds = Colouring(np.array(codes, int), colours, False)
        kind = pixels(draw(points, box, 16, 16, kinds))
        amount = pixels(draw(points, box, 16, 16, Colouring(kinds.codes_n, colours, True)))
    most = max((len(images) for images in places.values()), default=1)
    for row in range(16):
        for column in range(16):
            images = places.get((row, column), [])
            at = (row, column)
            if not images:
                bright = 0
            else:
                bright = int(64 + 191 * np.log(len(images)) / max(np.log(most), 1.0))
            assert (drawn[at] == SEQUENTIAL[bright]).all()
            own = [codes[i] for i in images if codes[i] >= 0]
            if not own:
                assert (kind[at] == SEQUENTIAL[0]).all()
                assert (amount[at] == SEQUENTIAL[0]).all()
                continue
            counts = [own.count(code) for code in range(3)]
            assert (kind[at] == colours[counts.index(max(counts))]).all()
            assert (amount[at] == colours[int(np.rint(sum(own) / len(own)))]).all()


def test_few_points_are_discs_that_can_be_seen():
    drawn = pixels(draw(of_points([0.0], [0.0]), Box(-1, 1, -1, 1), 100, 100))
    there = (drawn != SEQUENTIAL[0]).any(-1)
    rows, columns = np.nonzero(there)
    assert {rows.min(), rows.max(), columns.min(), columns.max()} == {46, 54}
    # Also at an edge, where a part of the disc is cut off.
    cut = pixels(draw(of_points([-1.0], [1.0]), Box(-1, 1, -1, 1), 100, 100))
    assert (cut[0, :4] != SEQUENTIAL[0]).any(-1).all()
    assert (cut[50:] == SEQUENTIAL[0]).all()


def test_a_part_is_four_edges_in_order():
    assert box_of((None,) * 4) is None
    assert box_of((0, 1, 2, 3)) == Box(0, 1, 2, 3)
    for wrong in [(0, None, 2, 3), (1, 0, 2, 3), (0, 1, 3, 3), (0, float("nan"), 2, 3)]:
        with pytest.raises(FacetError, match="x0 < x1 and y0 < y1"):
            box_of(wrong)
    assert len(of_points([0, 1, 2], [0, 1, 2]).inside(Box(0, 1, 0.5, 5))) == 1
