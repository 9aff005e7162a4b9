"""Files that people write in place of a stage: what is odd is refused where it stands."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.adversarial import given
from pipeline.adversarial.files import read_text
from pipeline.adversarial.rules import Rules
from storage.errors import FacetError
from tests.refusals import refused

RULES = Rules("star", "heart", (), "shape")
READ = {
    "cues": given.read_cues,
    "descriptions": lambda file: given.read_descriptions(file, RULES),
    "pictures": lambda file: given.read_pictures(file)[0],
}


def written(folder, data: str | bytes, name="given.csv") -> str:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


@pytest.mark.parametrize(
    ("stage", "data", "why"),
    [
        ("cues", "text,source\nsnow,../../x/y\n", "row 1, column 'source': '../../x/y' is not a"),
        ("cues", "text,repeat\nsnow,0\nsand,99999999999999999999\n", "row 2, column 'repeat'"),
        ("cues", "text,repeat\nsnow,-3\n", "whole number from 0"),
        ("cues", "text,repeat\nsnow,0.5\n", "whole number from 0"),
        ("cues", "text,score\nsnow,inf\n", "a finite number"),
        ("cues", "text,used\nsnow,\n", "true or false"),
        ("cues", "text,used\nsnow,false\n", "of its 1 cues none is used"),
        ("cues", "text,source\n  ,given\n", "row 1, column 'text': .* is not a text"),
        ("cues", "text\ncaf\xe9\n".encode("latin1"), "not UTF-8"),
        ("descriptions", "text,number\na star,0\na star,0\n", "row 2: a row before it has"),
        ("pictures", "file,became\na.png,zebra\n", "'zebra' is not drawn, blank, refused"),
        ("pictures", "file,became\n,drawn\n", "row 1: a picture that was refused has no file"),
    ],
)  # fmt: skip
def test_what_is_odd_is_refused_with_its_row(tmp_path, stage, data, why):
    with refused(FacetError, why):
        READ[stage](written(tmp_path, data))


@pytest.mark.parametrize("column", ["text", "source", "repeat"])
def test_what_parquet_does_not_say_is_refused(tmp_path, column):
    row = {"text": "a star", "source": "given", "repeat": 0} | {column: None}
    file = str(tmp_path / "given.parquet")
    pd.DataFrame([row]).to_parquet(file)
    with refused(FacetError, f"row 1, column {column!r}"):
        given.read_cues(file)


def test_what_tells_rows_apart_is_counted_where_it_is_not_said(tmp_path):
    told = READ["descriptions"](written(tmp_path, "text\na star on snow\na star at night\n"))
    assert told["number"].tolist() == [0, 1]  # or both would have the same pictures
    for name in ("a", "b", "c"):
        Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(tmp_path / f"{name}.png")
    listed = READ["pictures"](written(tmp_path, "a.png\nb.png\n", "given.txt"))
    assert listed[["description", "number"]].values.tolist() == [[0, 0], [1, 0]]
    of = READ["pictures"](written(tmp_path, "file,text\na.png,x\nb.png,y\nc.png,x\n"))
    assert of[["description", "number"]].values.tolist() == [[0, 0], [1, 0], [0, 1]]


def test_pictures_of_one_colour_are_blank_where_nobody_says_what_they_are(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    (row,) = READ["pictures"](written(tmp_path, "black.png\n", "given.txt")).to_dict("records")
    assert (row["became"], row["why"]) == ("blank", "all black")


def test_figures_and_other_encodings_are_texts(tmp_path):
    assert given.read_cues(written(tmp_path, "text\n12\n"))["text"].tolist() == ["12"]
    file = written(tmp_path, "text\nsnow\n".encode("utf-16"))
    assert given.read_cues(file)["text"].tolist() == ["snow"]
    with refused(FacetError, "--keep .* is not UTF-8"):
        read_text(written(tmp_path, b"caf\xe9\n"), "keep")
