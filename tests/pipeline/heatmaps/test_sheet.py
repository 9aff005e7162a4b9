"""A sheet is read as it was kept."""

import numpy as np

from pipeline.heatmaps.sheet import SHEET, Sheet
from pipeline.heatmaps.summary import Case
from storage.results import save_result


def test_a_sheet_is_read_as_it_was_kept(tmp_path):
    rng = np.random.default_rng(0)
    kept = Sheet(
        "aligned",
        ["tokens last:4", "random"],
        [Case(7, "worst", 0.25), Case(3, "best", 1.0)],
        ["a/ö.png", "b.png"],
        ["cat", "dog"],
        rng.integers(0, 255, (2, 8, 6, 3), np.uint8),
        rng.choice(np.array([0, 1, 255], np.uint8), (2, 8, 6)),
        rng.normal(size=(2, 2, 4, 3)).astype(np.float32),
    )
    result = save_result(str(tmp_path), "segment", {}, {}, arrays={SHEET: kept.arrays()})
    found = Sheet.of(result)
    assert found is not None
    for name in ("protocol", "methods", "cases", "keys", "classes"):
        assert getattr(found, name) == getattr(kept, name)
    for name in ("pictures_nyxc", "masks_nyx", "maps_nmyx"):
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name))
        assert getattr(found, name).dtype == getattr(kept, name).dtype
    assert Sheet.of(save_result(str(tmp_path), "segment", {"other": 1}, {})) is None
