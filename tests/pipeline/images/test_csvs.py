"""Tables of image files, and WILDS' Waterbirds."""

from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from pipeline.images.csvs import BIRDS
from pipeline.images.decode import read_bytes
from pipeline.images.errors import SourceError
from pipeline.images.listing import list_images, refuse_source
from pipeline.images.load import load_rows
from pipeline.images.resize import Resize
from pipeline.images.rows import ListingReport
from pipeline.subsets import parse_where
from pipeline.texts import load_classes
from tests import s3_kit
from tests.pipeline.images.kit import png

RESIZE = Resize(8, 8, "bicubic", "shortest", 0)
WILDS = """img_id,img_filename,y,split,place,place_filename
1,001.Albatross/a_0001.png,1,0,0,/b/bamboo_forest/00000131.jpg
2,001.Albatross/a_0002.png,1,2,1,/o/ocean/00002.jpg
3,"002.Finch, house/f_0001.png",0,2,1,/o/ocean/00003.jpg
4,002.Finch/gone.png,0,1,0,/f/forest/00004.jpg
"""
THERE = ("001.Albatross/a_0001.png", "001.Albatross/a_0002.png", "002.Finch, house/f_0001.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(THERE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(seed))
    (tmp_path / "metadata.csv").write_text(WILDS)
    return tmp_path


def listed(source: object, report: ListingReport | None = None) -> pa.Table:
    return pa.concat_tables(list_images(str(source), report=report))


def test_waterbirds_come_with_names_and_groups(folder: Path) -> None:
    table = listed(f"waterbirds:{folder}")
    assert table["key"].to_pylist() == [*THERE, "002.Finch/gone.png"]
    assert table["uri"].to_pylist()[0] == f"{folder}/{THERE[0]}"
    assert table["label"].to_pylist() == ["waterbird", "waterbird", "landbird", "landbird"]
    assert table["place"].to_pylist() == ["land", "water", "water", "land"]
    assert table["split"].to_pylist() == ["train", "test", "test", "val"]
    assert table["group"].to_pylist() == [
        "waterbird/land", "waterbird/water", "landbird/water", "landbird/land",
    ]  # fmt: skip
    assert table["y"].to_pylist() == [1, 1, 0, 0]
    assert table["img_id"].to_pylist() == [1, 2, 3, 4]
    assert table["place_filename"].to_pylist()[1] == "/o/ocean/00002.jpg"
    test = table.filter(parse_where("split == 'test' and place == 'water'", table.schema))
    assert test["img_id"].to_pylist() == [2, 3]
    loaded = load_rows(table, RESIZE, (8, 8))
    assert loaded.ok.tolist() == [True, True, True, False]
    assert listed(f"waterbirds:{folder}/") == table
    refuse_source(f"waterbirds:{folder}")
    classes = load_classes("waterbirds")
    assert classes.names == BIRDS["y"]
    assert classes.truth(table["label"].to_pylist()).tolist() == table["y"].to_pylist()


def test_rows_that_wilds_does_not_have_are_left_out_and_counted(folder: Path) -> None:
    odd = "5,x.png,2,0,0,p\n6,x.png,1,0\n7,,1,0,0,p\n8,y.png,1,3,0,p\n"
    again = f"9,{THERE[0]},1,0,0,p\n"
    (folder / "metadata.csv").write_text(WILDS + odd + again)
    report = ListingReport()
    table = listed(f"waterbirds:{folder}", report)
    assert table["img_id"].to_pylist() == [1, 2, 3, 4, 9]
    assert table["key"].to_pylist()[-1] == f"{THERE[0]}~2"
    assert report.images == 5
    assert report.counts == {
        "y is none of 0-1": 1,
        "split is none of 0-2": 1,
        "a row of 4 fields, not 6": 1,
        "a row without a file's name": 1,
        "duplicate key, kept under a new one": 1,
    }


def test_any_table_keeps_its_columns(folder: Path) -> None:
    (folder / "some.csv").write_text(
        f'file_name,label,group,uri,NA\n{folder}/{THERE[0]},bird,a/b,x,NA\n"{THERE[2]}",finch,,y,\n'
    )
    table = listed(folder / "some.csv")
    assert table["key"].to_pylist() == [f"{folder}/{THERE[0]}", THERE[2]]
    assert table["uri"].to_pylist() == [f"{folder}/{THERE[0]}", f"{folder}/{THERE[2]}"]
    assert table["label"].to_pylist() == ["bird", "finch"]
    assert table["group"].to_pylist() == ["a/b", None]
    assert table["meta_uri"].to_pylist() == ["x", "y"]
    assert table["NA"].to_pylist() == ["NA", None]
    assert [read_bytes(row) for row in table.to_pylist()] == [png(0), png(2)]
    refuse_source(str(folder / "some.csv"))


def test_what_is_no_such_table_is_refused(folder: Path) -> None:
    (folder / "bare.csv").write_text("a,b\n1,2\n")
    (folder / "twice.csv").write_text("path,b,b\n1,2,3\n")
    (folder / "empty.csv").write_text("")
    (folder / "none.csv").write_text("path\n")
    (folder / "latin.csv").write_bytes("path,b\nx.png,B\xe4r\n".encode("latin-1"))
    (folder / "sub").mkdir()
    (folder / "sub" / "metadata.csv").write_text("img_filename,y\na.png,0\n")
    for source, message in {
        "waterbirds:": "name the folder, as in waterbirds:",
        f"waterbirds:{folder}/gone": "gone has no metadata.csv",
        f"waterbirds:{folder}/sub": "has no column place, split: WILDS' has",
        f"{folder}/bare.csv": "has no column of file names. Its columns: a, b",
        f"{folder}/twice.csv": "has several columns called 'b'",
        f"{folder}/empty.csv": "is no table of comma-separated values",
        f"{folder}/none.csv": "has no column of file names|No image in",
        f"{folder}/latin.csv": "column 'b' is not UTF-8",
    }.items():
        with pytest.raises(SourceError, match=message):
            refuse_source(source)
            listed(source)


def test_a_table_on_an_object_store(folder: Path) -> None:
    with s3_kit.serve() as endpoint, s3_kit.used(endpoint):
        client = boto3.client("s3")
        for name in (*THERE, "metadata.csv"):
            client.put_object(
                Bucket="bucket", Key=f"birds/{name}", Body=(folder / name).read_bytes()
            )
        table = listed("waterbirds:s3://bucket/birds")
        assert table["uri"].to_pylist()[0] == f"s3://bucket/birds/{THERE[0]}"
        loaded = load_rows(table, RESIZE, (8, 8))
        assert loaded.ok.tolist() == [True, True, True, False]
