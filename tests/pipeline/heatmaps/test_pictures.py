"""Pictures that are left out take nothing of the others with them."""

import numpy as np

from pipeline.heatmaps.pictures import Masked
from pipeline.images.load import LoadedImages
from pipeline.images.masks import LoadedMasks


def test_all_that_is_kept_is_of_the_same_pictures():
    at = np.arange(4, dtype=np.uint8)
    pixels = np.broadcast_to(at[:, None, None, None], (4, 2, 2, 3))
    loaded = LoadedImages(pixels, at >= 0, [None] * 4, [None] * 4, [2] * 4, [2] * 4)
    masks = {name: np.broadcast_to(at[:, None, None], (4, 2, 2)) for name in ("a", "b")}
    batch = Masked(at + 10, list("pqrs"), [0, 1, 2, 3], loaded, LoadedMasks(masks, [None] * 4))
    kept = batch.kept(np.array([False, True, False, True]), pixels)
    assert (kept.keys, kept.labels, kept.images.tolist()) == (["q", "s"], [1, 3], [11, 13])
    for values in (kept.pixels, *kept.masks.values()):
        assert values.reshape(2, -1).min(1).tolist() == values.reshape(2, -1).max(1).tolist()
        assert values.reshape(2, -1)[:, 0].tolist() == [1, 3]
