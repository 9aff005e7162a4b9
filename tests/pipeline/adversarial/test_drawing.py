"""Drawing goes on where it was, counts what is no picture, and follows its seeds."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.adversarial.choices import parse_drawer
from pipeline.adversarial.drawing import (
    FOLDER,
    Picture,
    by_renderer,
    draw_all,
    picture_seed,
)
from pipeline.adversarial.renderer import render
from pipeline.adversarial.tables import PICTURES
from storage.errors import FacetError
from storage.results import as_table
from tests.pipeline.adversarial.described import described


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_pictures_are_of_their_descriptions_and_seeds(tmp_path):
    texts = ("two red stars on snow", "a star and a spoon", "a blue star")
    found = draw_all(described(*texts), by_renderer("star", "heart"), 2, 7, str(tmp_path))
    assert list(found["became"]) == ["drawn"] * 2 + ["refused"] * 2 + ["drawn"] * 2
    assert set(found["why"][2:4]) == {"it cannot draw 'spoon'"}
    assert list(found["file"][2:4]) == ["", ""]
    assert list(found["there"]) == [True, True, None, None, True, True]
    for row in found[found["became"] == "drawn"].itertuples():
        assert np.array_equal(pixels(tmp_path / row.file), render(row.text, row.seed)[0])
    assert len(set(found["seed"])) == 6
    assert as_table(found, PICTURES["pictures"]).num_rows == 6
    assert list(found["number"]) == [0, 1] * 3


@pytest.mark.parametrize("stopped", [0, 1, 4, 5])
def test_it_goes_on_where_it_was_stopped(tmp_path, stopped):
    draw, drawn = by_renderer("star", "heart"), []

    def breaks(text: str, seed: int) -> Picture:
        if len(drawn) == stopped:
            raise KeyboardInterrupt
        drawn.append(seed)
        return draw(text, seed)

    asked = described("two red stars on snow", "a star with a spoon", "a blue star")
    with pytest.raises(KeyboardInterrupt):
        draw_all(asked, breaks, 2, 7, str(tmp_path / "twice"))
    again: list[int] = []

    def counted(text: str, seed: int) -> Picture:
        again.append(seed)
        return draw(text, seed)

    found = draw_all(asked, counted, 2, 7, str(tmp_path / "twice"))
    once = draw_all(asked, draw, 2, 7, str(tmp_path / "once"))
    pd.testing.assert_frame_equal(found, once)
    assert drawn + again == list(once["seed"])  # nothing twice
    for path in (tmp_path / "once" / FOLDER).iterdir():
        assert path.read_bytes() == (tmp_path / "twice" / FOLDER / path.name).read_bytes()


def test_what_has_one_colour_is_blank_and_why_is_kept(tmp_path):
    black = Image.new("RGB", (8, 8))
    grey = Image.new("L", (8, 8), 7)
    two = Image.new("RGB", (8, 8))
    two.putpixel((7, 7), (0, 0, 1))
    left = iter([Picture(black, "its safety checker said no"), Picture(grey), Picture(two)])
    found = draw_all(described("a cat"), lambda *_: next(left), 3, 0, str(tmp_path))
    assert list(found["became"]) == ["blank", "blank", "drawn"]
    assert list(found["why"]) == [
        "all black, its safety checker said no", "all of one colour, (7, 7, 7)", "",
    ]  # fmt: skip
    assert list(found["there"]) == [None] * 3  # nobody knows
    assert all(found["file"])


def test_only_chosen_descriptions_are_drawn(tmp_path):
    asked = described("a star", "a red star").assign(chosen=[False, True])
    found = draw_all(asked, by_renderer("star", "heart"), 1, 0, str(tmp_path))
    assert list(found["text"]) == ["a red star"]
    assert list(found["description"]) == [1]


def test_whether_the_drawn_class_is_there_also_where_it_is_no_shape(tmp_path):
    draw = by_renderer("red", "blue")
    assert draw("a red star", 0).there
    assert not draw("a blue star", 0).there
    assert by_renderer("star/night", "star/snow")("a star at night", 0).there
    assert by_renderer("star", "heart")("a star and a ring", 0).there
    assert not by_renderer("star", "heart")("a star and a heart", 0).there


def test_seeds_are_of_one_picture_and_of_no_other():
    seeds = {
        picture_seed(seed, source, repeat, at, number)
        for seed in (0, 1)
        for source in ("random", "second-order")
        for repeat in (0, 1)
        for at in (0, 1, 11)
        for number in (0, 1, 11)
    }
    assert len(seeds) == 72
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert picture_seed(0, "random", 0, 0, 0) == picture_seed(0, "random", 0, 0, 0)


@pytest.mark.parametrize("text", ["crayons", "microworld:x", "openai:", "diffusers: "])
def test_a_drawer_that_is_none(text):
    with pytest.raises(FacetError, match="give microworld, diffusers:PATH-OR-NAME or openai:MODEL"):
        parse_drawer(text)


def test_a_folder_without_a_pipeline(tmp_path):
    with pytest.raises(FacetError, match=r"has no model_index\.json"):
        parse_drawer(f"diffusers:{tmp_path}")


def test_a_picture_is_kept_as_it_is():
    from pipeline.adversarial.drawing import png

    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(Image.fromarray(noise))))), noise)
