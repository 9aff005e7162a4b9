"""Small pictures are cut from the image's own place, are kept on disk, and say what is wrong."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.explorer import pictures
from pipeline.explorer.library import Library
from pipeline.explorer.pictures import Picture, Pictures
from pipeline.heatmaps.seen import GREY, see_image
from tests.pipeline.explorer.pictured import BAD, IMAGES, colour, library, pictured


@pytest.fixture
def looked_at(tmp_path: Path) -> Library:
    return library(pictured(tmp_path))


def opened(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.data))


def test_a_thumbnail_is_the_picture_small(looked_at: Library) -> None:
    (here,) = looked_at.stores.values()
    small = opened(looked_at.pictures.of_image(here, 1, "thumbnail"))
    assert (small.format, small.size) == ("JPEG", (192, 128))
    assert np.abs(np.asarray(small, int) - colour(1)).max() <= 3


def test_what_the_model_saw_is_what_maps_are_laid_over(looked_at: Library) -> None:
    (here,) = looked_at.stores.values()
    seen = opened(looked_at.pictures.of_image(here, 1, "seen"))
    assert seen.format == "PNG"
    assert (np.asarray(seen) == see_image(here.store, 1).pixels).all()


@pytest.mark.parametrize("kind", ["thumbnail", "seen"])
def test_what_cannot_be_had_is_grey_and_says_why(
    looked_at: Library, tmp_path: Path, kind: pictures.Kind
) -> None:
    (here,) = looked_at.stores.values()
    Image.new("RGB", (300, 200)).save(tmp_path / "5.png")
    (tmp_path / "6.png").unlink()
    for index, why in ((BAD, "not a"), (5, "its bytes are others"), (6, "6.png")):
        found = looked_at.pictures.of_image(here, index, kind)
        assert found.unreadable is not None
        assert why in found.unreadable
        pixels = np.asarray(opened(found).convert("L"))
        assert np.abs(np.median(pixels[0]) - GREY) < 3
        assert pixels.min() < 120, "no words"
    # Once it is what it was, it is shown again.
    Image.new("RGB", (300, 200), colour(5)).save(tmp_path / "5.png")
    assert looked_at.pictures.of_image(here, 5, kind).unreadable is None


def test_a_picture_is_cut_once_whoever_asks(
    looked_at: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here,) = looked_at.stores.values()
    loads = []
    load = pictures.load_again
    monkeypatch.setattr(pictures, "load_again", lambda *at: (loads.append(at[1]), load(*at))[1])
    with ThreadPoolExecutor(8) as pool:
        asked = [0, 1, 2, 4] * 8
        found = list(pool.map(lambda i: looked_at.pictures.of_image(here, i, "thumbnail"), asked))
    assert sorted(loads) == [0, 1, 2, 4]
    assert [p.data for p in found[:4]] * 8 == [p.data for p in found]


def test_what_is_kept_has_a_bound_and_goes_with_the_server(looked_at: Library) -> None:
    (here,) = looked_at.stores.values()
    kept = Pictures(room=3 * pictures.BLOCK)
    folder = Path(kept._folder.name)
    for index in [i for i in range(IMAGES) if i != BAD] * 2:
        assert kept.of_image(here, index, "thumbnail").unreadable is None
        assert len(list(folder.iterdir())) <= 3
    del kept
    assert not folder.exists()


def test_a_picture_that_is_not_kept_is_there_until_it_was_read(looked_at: Library) -> None:
    (here,) = looked_at.stores.values()
    kept = Pictures(room=pictures.BLOCK)  # less than twice any picture
    assert opened(kept.of_image(here, 1, "thumbnail")).size == (192, 128)
    assert not list(Path(kept._folder.name).iterdir())


def test_without_room_on_disk_pictures_are_shown_all_the_same(looked_at: Library) -> None:
    (here,) = looked_at.stores.values()
    looked_at.pictures._folder.cleanup()
    small = opened(looked_at.pictures.of_image(here, 1, "thumbnail"))
    assert small.size == (192, 128)


def test_a_file_that_was_brought(looked_at: Library, tmp_path: Path) -> None:
    (here,) = looked_at.stores.values()
    data = (tmp_path / "2.png").read_bytes()
    stored = looked_at.pictures.of_image(here, 2, "seen")
    assert looked_at.pictures.of_file("brought", data, here.meta, "seen") == stored
