"""Judgements against a plain loop; what speaks for the target sums to the margin."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.adversarial.drawing import by_renderer, draw_all
from pipeline.adversarial.judging import (
    PARTS,
    by_second,
    judge,
    kept_files,
    margins,
    parse_second,
    speaks_map,
)
from pipeline.adversarial.renderer import render
from pipeline.microworld.captions import class_prompts
from pipeline.models import ModelSpec, load_model
from pipeline.texts.classes import Classes
from storage.errors import FacetError
from tests.pipeline.adversarial.described import described
from tests.tiny import FEW_WORDS, tiny, write_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = write_config(tmp_path_factory.mktemp("model"), tiny(text=FEW_WORDS))
    return load_model(ModelSpec(config, "none"), dtype=torch.float64)


@pytest.fixture(scope="module")
def means(model) -> np.ndarray:
    """The embeddings of two pictures, so that others are nearer to the one or to the other."""
    two = [Image.fromarray(render(text, 3)[0]) for text in ("a red star", "a blue ring")]
    rows = np.stack([embedding(model, image) for image in two])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def drawn(tmp_path):
    texts = ("two red stars on snow", "a star and a spoon", "a blue star", "a heart")
    found = draw_all(described(*texts), by_renderer("star", "heart"), 12, 7, str(tmp_path))
    return tmp_path, found


def embedding(model, image: Image.Image) -> np.ndarray:
    pixels = torch.from_numpy(model.preprocess.to_uint8(image).copy())[None]
    return model.module.encode_image(model.preprocess.to_tensor(pixels).double())[0].numpy()


def plain_margin(model, means, path) -> float:
    """One picture alone, straight from cosines."""
    row = embedding(model, Image.open(path))
    return float(row @ means[1] - row @ means[0]) / float(np.linalg.norm(row))


def test_pictures_are_judged_as_one_by_one(model, means, drawn):
    place, pictures = drawn
    read = lambda file: (place / file).read_bytes()  # noqa: E731
    found = judge(pictures, lambda files: margins(model, means, files, read))
    assert set(found["outcome"]) == {"fooled", "not fooled", "not there", "refused"}
    for row, was in zip(found.itertuples(), pictures.itertuples(), strict=True):
        if was.became == "refused":
            assert (row.outcome, row.file) == ("refused", "")
            assert np.isnan(row.margin)
            continue
        margin = plain_margin(model, means, place / row.file)
        assert row.margin == pytest.approx(margin, abs=1e-6)  # pixels are prepared in float32
        if was.text == "a heart":  # the target itself is no adversarial picture
            assert row.outcome == "not there"
        else:
            assert row.outcome == ("fooled" if margin > 0 else "not fooled")


def test_the_other_class_means_the_other_sign(model, means, drawn):
    place, pictures = drawn
    files = [file for file in pictures["file"] if file]
    read = lambda file: (place / file).read_bytes()  # noqa: E731
    found = margins(model, means, files, read)
    assert margins(model, means[::-1], files, read) == pytest.approx(-found)
    assert (found > 0).any()
    assert (found < 0).any()


def test_judging_goes_on_where_it_was_stopped(model, means, drawn, tmp_path):
    place, pictures = drawn
    files = [file for file in pictures["file"] if file]
    asked: list[str] = []

    def read(file: str) -> bytes:
        asked.append(file)
        if len(asked) == 35:
            raise KeyboardInterrupt
        return (place / file).read_bytes()

    with pytest.raises(KeyboardInterrupt):
        margins(model, means, files, read, str(tmp_path))
    asked.clear()
    found = margins(model, means, files, read, str(tmp_path))
    assert asked == files[32:]
    assert np.array_equal(found, margins(model, means, files, read, str(tmp_path)))
    assert len(list((tmp_path / PARTS).iterdir())) == 2


def unknown(*became: str) -> pd.DataFrame:
    """Pictures of which the drawer does not know what they show."""
    return pd.DataFrame(
        {
            "source": "given", "repeat": 0, "description": 0, "number": range(len(became)),
            "file": [f"{at}.png" for at in range(len(became))], "became": became,
            "there": pd.Series([None] * len(became), dtype=object),
        }
    )  # fmt: skip


def test_who_knows_whether_the_drawn_class_is_there():
    pictures = unknown("drawn", "blank", "drawn", "drawn")
    asked: list[list[str]] = []

    def there(files):
        asked.append(list(files))
        return [file != "2.png" for file in files]

    signs = lambda files: np.array([1.0, 2.0, -1.0])  # noqa: E731
    assert list(judge(pictures, signs, there)["outcome"]) == [
        "fooled", "blank", "not there", "not fooled",
    ]  # fmt: skip
    assert asked == [["0.png", "2.png", "3.png"]]
    assert list(judge(pictures, signs)["outcome"]) == ["fooled", "blank", "fooled", "not fooled"]
    pictures["there"] = np.array([False, None, True, None], object)
    assert list(judge(pictures, signs, there)["outcome"]) == [
        "not there", "blank", "fooled", "not fooled",
    ]  # fmt: skip
    assert asked[1:] == [["3.png"]]  # what the drawer knows, nobody else is asked


def test_a_tie_is_not_taken_for_the_target():
    assert list(judge(unknown("drawn"), lambda files: np.zeros(1))["outcome"]) == ["not fooled"]


def test_a_persons_list():
    files = {"pictures/a.png": "pictures/a.png", "pictures/b.png": "pictures/b.png"}
    listed = "# looked at by me\n\na.png\n./pictures/b.png\n"
    assert kept_files(listed, files, "mine") == set(files)
    assert kept_files("", files, "mine") == set()
    with pytest.raises(FacetError, match=r"`keep` mine: 1 of its 2 lines .* such as 'c\.png'"):
        kept_files("a.png\nc.png", files, "mine")
    with pytest.raises(FacetError, match="there are no pictures"):
        kept_files("a.png", {}, "mine")


def test_a_persons_list_has_their_own_names_of_files():
    files = {"pictures/0.png": "one/dog.png", "pictures/1.png": "two/dog.png"}
    files["pictures/2.jpg"] = "/home/me/cat.jpg"
    listed = "two/dog.png\ncat.jpg\n"
    assert kept_files(listed, files, "mine") == {"pictures/1.png", "pictures/2.jpg"}
    assert kept_files("0.png", files, "mine") == {"pictures/0.png"}
    with pytest.raises(FacetError, match="'dog.png' may be any of 2 pictures"):
        kept_files("dog.png", files, "mine")


def test_what_speaks_for_the_target_sums_to_the_margin(model, means, drawn):
    place, pictures = drawn
    path = place / pictures["file"][0]
    seen = model.preprocess.to_uint8(Image.open(path))
    split = speaks_map(model, seen, means, (1, 2))
    whole = split.patches_mrc.sum() + sum(values.sum() for values in split.rest.values())
    assert whole == pytest.approx(plain_margin(model, means, path), abs=1e-6)
    assert split.residual_m == pytest.approx(0, abs=1e-9)
    other = speaks_map(model, seen, means[::-1], (1, 2))
    assert other.patches_mrc == pytest.approx(-split.patches_mrc)


# -- a second model ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ViT-B-32", r"say by which weights, as ViT-B-32/openai"),
        ("ViT-B-99/openai", "ViT-B-99"),
        ("microworld/elsewhere", "elsewhere"),
    ],
)
def test_a_second_model_that_is_none(text, why):
    with pytest.raises(FacetError, match=why):
        parse_second(text)


def test_a_second_model_says_what_it_would_not_take_for_the_target(drawn):
    place, pictures = drawn
    files = pictures["file"][pictures["became"] == "drawn"].tolist()
    spec = parse_second("microworld")
    assert spec == parse_second("microworld/microworld")
    prompts = class_prompts("shape")
    pair = Classes(
        ("star", "heart"),
        (tuple(prompts["star"]), tuple(prompts["heart"])),
        {"star": 0, "heart": 1},
    )
    there = by_second(spec, pair, lambda file: (place / file).read_bytes())
    said = dict(zip(files, there(files), strict=True))
    truth = dict(zip(pictures["file"], pictures["there"], strict=True))
    right = np.mean([said[file] == truth[file] for file in files])
    assert right > 0.7  # it knows stars from hearts, on snow and at night less well
