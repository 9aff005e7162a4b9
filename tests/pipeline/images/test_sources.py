"""SOURCE strings, folders and the embedded world."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import folders, micro
from pipeline.images.decode import decode, read_bytes, to_image
from pipeline.images.errors import BadImage, SourceError
from pipeline.images.listing import list_images
from pipeline.images.rows import NO_PICTURES, ListingReport, conform, is_image_name, unify
from pipeline.images.sources import list_piece, pieces
from pipeline.microworld.draw import picture as micro_picture
from storage.objects import NoClient
from tests.pipeline.images.kit import picture, png, write_tar


def listed(source: object, report: ListingReport | None = None, **options: int) -> pa.Table:
    return pa.concat_tables(list_images(str(source), report=report, **options))


def fill(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return root


def test_the_first_sub_folder_is_the_label(tmp_path: Path) -> None:
    fill(tmp_path, ["n02/b.png", "n01/x/a.JPEG", "n01/ä 日本.png", "n01-b/c.webp", "z.png"])
    report = ListingReport()
    table = listed(tmp_path, report)
    keys = ["z.png", "n01/x/a.JPEG", "n01/ä 日本.png", "n01-b/c.webp", "n02/b.png"]
    assert table["key"].to_pylist() == keys
    assert table["label"].to_pylist() == [None, "n01", "n01", "n01-b", "n02"]
    assert table["uri"].to_pylist() == [f"{tmp_path}/{key}" for key in keys]
    assert table["length"].to_pylist() == [(tmp_path / key).stat().st_size for key in keys]
    assert table["offset"].null_count == 5
    assert (report.images, report.counts) == (5, {})
    assert read_bytes(table.to_pylist()[4]) == png(0)


def test_a_flat_folder_has_no_labels_and_its_order_is_by_name(tmp_path: Path) -> None:
    fill(tmp_path, ["10.png", "9.png", "B.png", "a::b#c%20{1}.png"])
    table = listed(tmp_path)
    assert table["key"].to_pylist() == ["10.png", "9.png", "B.png", "a::b#c%20{1}.png"]
    assert table["label"].null_count == 4
    assert read_bytes(table.to_pylist()[3]) == png(3)


def test_globs_braces_and_single_files(tmp_path: Path) -> None:
    fill(tmp_path, ["d/n1/a.png", "d/n2/b.png", "d/m/c.png", "e/x.png"])
    assert listed(f"{tmp_path}/d/n*/*.png")["key"].to_pylist() == ["n1/a.png", "n2/b.png"]
    assert listed(f"{tmp_path}/d/n*")["label"].to_pylist() == ["n1", "n2"]
    assert listed(f"{tmp_path}/{{e,d}}")["key"].to_pylist()[-1] == "x.png"
    assert listed(f"{tmp_path}/e/x.png")["key"].to_pylist() == ["x.png"]
    for i in range(3):
        write_tar(tmp_path / f"{i:05d}.tar", [(f"{i}.png", png(i))])
    tars = listed(f"{tmp_path}/{{00000..00002}}.tar")
    assert tars["key"].to_pylist() == ["00000/0", "00001/1", "00002/2"]
    assert listed(f"{tmp_path}/0000[12].tar")["key"].to_pylist() == ["00001/1", "00002/2"]


def test_folders_on_the_way_are_taken_as_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["d [2020]/{a,b}/x[1].png", "d [2020]/{a,b}/y.png", "d 2/a/z.png", "d 2/b/z.png"]
    fill(tmp_path, names)
    write_tar(tmp_path / "d [2020]" / "t{1..2}.tar", [("a.png", png(0))])
    for source, keys in {
        "d [2020]/*/*.png": ["{a,b}/x[1].png", "{a,b}/y.png"],
        "d [2020]/{a,b}/*.png": ["x[1].png", "y.png"],
        "d [2020]/{a,b}/{x[1],y}.png": ["x[1].png", "y.png"],
        "d [2020]/{a,b}": ["x[1].png", "y.png"],
        "d [2]/{a,b}/*.png": ["d 2/a/z.png", "d 2/b/z.png"],
        "d [2020]/t{1..2}.tar": ["t{1..2}/a"],
    }.items():
        for name in (source, f"{tmp_path}/{source}", f"file://{tmp_path}/{source}"):
            monkeypatch.chdir(tmp_path)
            assert listed(name)["key"].to_pylist() == keys, name
    many = ",".join(["y.png"] * 99)  # longer than a name can be
    assert listed(f"{tmp_path}/d [2020]/{{a,b}}/{{{many}}}")["key"].to_pylist() == ["y.png"]
    monkeypatch.chdir(tmp_path / "d [2020]")
    assert listed("{a,b}/y*")["key"].to_pylist() == ["y.png"]


def test_links(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", ["a/x.png"])
    fill(tmp_path / "elsewhere", ["far.png"])
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "a" / "loop.png").symlink_to(root / "a" / "loop.png")
    (root / "a" / "near.png").symlink_to(root / "a" / "x.png")
    (root / "a" / "up").symlink_to(root)
    (root / "self").symlink_to(root)
    (root / "b").symlink_to(tmp_path / "elsewhere")
    report = ListingReport()
    table = listed(root, report)
    rows = {row["key"]: row for row in table.to_pylist()}
    assert list(rows) == ["a/gone.png", "a/loop.png", "a/near.png", "a/x.png", "b/far.png"]
    assert report.counts == {"link to a folder that it lies in": 2}
    assert read_bytes(rows["a/near.png"]) == read_bytes(rows["a/x.png"])
    with pytest.raises(
        BadImage, match=r"does not exist: .*gone.png \(deleted .* or a link to nothing"
    ):
        read_bytes(rows["a/gone.png"])
    with pytest.raises(BadImage, match="a link that leads back to itself: .*loop.png"):
        read_bytes(rows["a/loop.png"])
    assert len(listed(f"{root}/a/*.png")) == 4


def test_what_is_left_out_of_a_folder_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, ["a/x.png", "a/notes.md", ".git/x.png", "a/.DS_Store", "a/t.tar"])
    os.mkfifo(tmp_path / "a" / "pipe.png")
    Path(os.fsdecode(bytes(tmp_path) + b"/a/caf\xe9.png")).write_bytes(png(0))
    report = ListingReport()
    assert listed(tmp_path, report)["key"].to_pylist() == ["a/x.png"]
    assert report.counts == {
        "not an image file": 1,
        "hidden file or folder": 2,
        "tar or Parquet file in a folder (name such files, as in DIR/*.tar)": 1,
        "not a regular file": 1,
        "file name is not UTF-8": 1,
    }


def test_what_the_decoder_reads_is_listed(tmp_path: Path) -> None:
    suffixes = """
        .JPEG .apng .avif .bmp .dds .dib .gif .ico .j2k .jfif .jp2 .jpe .jpg .mpo .pbm .pcx .pgm
        .png .pnm .ppm .psd .qoi .ras .sgi .tga .tif .tiff .webp .xbm
    """
    names = [f"a{suffix}" for suffix in suffixes.split()]
    assert listed(fill(tmp_path, names))["key"].to_pylist() == names
    assert listed(tmp_path / "a.jfif")["key"].to_pylist() == ["a.jfif"]


def test_every_format_that_pillow_writes_and_the_decoder_reads_is_listed() -> None:
    Image.init()
    suffixes = {f: s for s, f in reversed(Image.registered_extensions().items())}
    read = []
    for kind in sorted(set(Image.SAVE) & set(suffixes)):
        mode = "1" if kind in ("MSP", "XBM") else "RGB"
        data = io.BytesIO()
        try:
            picture(0, 32, 32).convert(mode).save(data, kind)
            decode(data.getvalue())
        except (BadImage, OSError, ValueError):
            continue
        read.append(kind)
        assert is_image_name(f"a{suffixes[kind]}") == (kind not in NO_PICTURES)
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"} <= set(read)


@pytest.mark.parametrize("name", ["a.pdf", "a.mpg", "a.h5", "a.pcd", "a.pfm", "a.heic", "jpg"])
def test_what_is_no_picture_is_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path, [name])
    with pytest.raises(SourceError, match=f"Left out: 1 x not an image file: {name}"):
        listed(tmp_path)
    with pytest.raises(SourceError, match=f"{name} is neither a folder.*image that Pillow reads"):
        listed(tmp_path / name)


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["a/x.png", "b/y.png"])
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    report = ListingReport()
    assert listed(tmp_path, report)["key"].to_pylist() == ["a/x.png"]
    assert report.counts == {"folder cannot be read (Permission denied)": 1}


def test_sources_that_name_nothing_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["d/a.png", "text/readme.md", "tars/notes.txt"])
    write_tar(tmp_path / "tars" / "0.tar", [("a.png", png(0))])
    (tmp_path / "empty").mkdir()
    for source, words in [
        ("", "image source is empty"),
        (f"{tmp_path}/nowhere", "1 of 1 paths do not exist: .*nowhere.*Check the spelling"),
        (f"{tmp_path}/tars/{{0..9}}.tar", r"9 of 10 paths do not exist: .*1.tar, .*\.\.\."),
        (f"{tmp_path}/*.tar", "nothing matches"),
        (f"{tmp_path}/empty", "is an empty folder"),
        (f"{tmp_path}/text", "No image in .*1 x not an image file: readme.md"),
        (f"{tmp_path}/tars", r"No image in .*name such files, as in DIR/\*.tar"),
        (f"{tmp_path}/text/readme.md", "neither a folder, .tar, .parquet, .csv nor an image"),
        (f"{tmp_path}/*/[0a]*", r"several kinds of things \(1 image, 1 tar\)"),
        (f"{tmp_path}/{{a", "unbalanced braces"),
    ]:
        with pytest.raises(SourceError, match=words):
            listed(source)
    with pytest.raises(NoClient, match="nothing reads or writes nostore://"):
        listed("nostore://bucket/x")


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_must_be_positive(limit: int) -> None:
    with pytest.raises(SourceError, match=f"limit is {limit}; it must be at least 1"):
        list_images("microworld:n=3", limit=limit)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("microworld:n=3,sed=1", "no option 'sed'. Did you mean 'seed'.*Options: n .*seed, split"),
        ("microworld:split=tset", "no split 'tset'. Did you mean 'test'.*train, val, test"),
        ("microworld:n=0", "n is '0'; it must be a whole number >= 1"),
        ("microworld:seed=-1", "seed is '-1'; it must be a whole number >= 0"),
        ("microworld:n=3,n=4", "write n=VALUE, once"),
        ("microworld:n", "write n=VALUE, once"),
    ],
)
def test_microworld_options_are_checked(source: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        pieces(source)


def test_microworld_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    table = listed("microworld:n=40,seed=7,split=val")
    monkeypatch.setattr(micro, "PIECE", 7)
    assert len(pieces("microworld:n=40,seed=7,split=val")) == 6
    assert listed("microworld:n=40,seed=7,split=val").combine_chunks() == table.combine_chunks()
    assert listed("microworld:n=40,seed=7,split=val", limit=9) == table.slice(0, 9)
    row = table.to_pylist()[23]
    pixels, _, scene = micro_picture(7, "val", 23)
    assert row["uri"] == "microworld:seed=7,split=val"
    assert (row["offset"], row["length"], row["key"]) == (23, None, "val-7/00000023")
    assert (row["label"], row["group"]) == (scene.shape, f"{scene.shape}/{scene.background}")
    assert row["split"] == "val"
    assert {name: row[name] for name in scene.labels()} == scene.labels()
    assert row["caption"]
    np.testing.assert_array_equal(np.asarray(to_image(row, read_bytes(row))), pixels)


def test_listing_the_microworld_renders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "picture", None)
    assert len(listed("microworld:n=5")) == 5


def test_metadata_of_differing_types_is_reconciled(tmp_path: Path) -> None:
    values = [{"v": 1}, {"v": 2.5, "w": 1}, {"w": "x"}, {"w": None, "u": [1]}, {"u": True}]
    for i, value in enumerate(values):
        members = [("a.png", png(i)), ("a.json", json.dumps(value).encode())]
        write_tar(tmp_path / f"{i}.tar", members)
    tables = list(list_images(f"{tmp_path}/*.tar"))
    assert all(t.schema == tables[0].schema for t in tables)
    table = pa.concat_tables(tables)
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["v"].to_pylist() == [1.0, 2.5, None, None, None]
    assert table["w"].to_pylist() == [None, "1", "x", None, None]
    assert table["u"].to_pylist() == [None, None, None, "[1]", "true"]


TYPES = [pa.null(), pa.bool_(), pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.date32()]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(TYPES), min_size=1, max_size=5))
def test_any_mix_of_types_unifies_whatever_the_order(types: list[pa.DataType]) -> None:
    def fold(order: list[pa.DataType]) -> pa.Schema:
        schema = pa.schema([])
        for kind in order:
            schema = unify(schema, pa.schema([("v", kind)]))
        return schema

    schema = fold(types)
    assert schema == fold(types[::-1])
    for kind in types:
        column = (
            pa.array([None if kind == pa.null() else 1])
            .cast(kind if kind != pa.date32() else pa.int32())
            .cast(kind)
        )
        assert conform(pa.table({"v": column}), schema).schema == schema


def test_listing_a_piece_is_a_pure_function(tmp_path: Path) -> None:
    fill(tmp_path, ["a/1.png", "a/2.png"])
    piece = pieces(str(tmp_path))[1]
    assert list_piece(piece)[0] == list_piece(piece)[0]
