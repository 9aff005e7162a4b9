"""ImageNet-Segmentation's file: a source of images, and of their masks."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from pipeline.images.again import digests
from pipeline.images.errors import SourceError
from pipeline.images.listing import list_images, refuse_source
from pipeline.images.load import load_rows
from pipeline.images.masks import check_masks, parse_masks
from pipeline.images.resize import Resize
from tests.pipeline.images.kit import Listed, encode, masks_of, picture, write_tar
from tests.pipeline.images.mat_kit import write_mat

N = 5
NAMES = [*(f"n0000000{i}_{7 - i}" for i in range(4)), "Größe"]
SIZES = [(9, 6), (6, 9), (30, 10), (10, 30), (7, 7)]
RESIZE = Resize(24, 24, "bicubic", "shortest", 0)


def pictures() -> list[np.ndarray]:
    return [np.asarray(picture(i, *size)) for i, size in enumerate(SIZES)]


def masks() -> list[list[np.ndarray]]:
    """One each, several of the second, none of the last."""
    rng = np.random.default_rng(1)
    all_of_them = [[rng.integers(0, 2, (h, w), np.uint8)] for w, h in SIZES]
    all_of_them[1].append(1 - all_of_them[1][0])
    all_of_them[-1] = []
    return all_of_them


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    return write_mat(tmp_path / "segs.mat", pictures(), masks(), NAMES)


def listed(source: object, **options: int) -> pa.Table:
    return pa.concat_tables(list_images(str(source), **options))


def test_its_pictures_are_listed_and_read(mat: Path) -> None:
    table = listed(f"gtsegs:{mat}")
    assert table["key"].to_pylist() == NAMES
    assert table["label"].to_pylist() == [*(f"n0000000{i}" for i in range(4)), None]
    assert table["uri"].to_pylist() == [f"gtsegs:{mat}"] * N
    assert table["offset"].to_pylist() == list(range(N))
    assert table["length"].to_pylist() == [None] * N
    assert table["mask"].to_pylist() == ["gtsegs"] * 4 + [None]
    assert listed(f"gtsegs:{mat}", limit=2) == table.slice(0, 2)
    rows = table.take([3, 0, 1, 4, 2])
    loaded = load_rows(rows, RESIZE, (24, 24))
    assert loaded.ok.all()
    assert list(zip(loaded.width, loaded.height, strict=True)) == [
        SIZES[i] for i in (3, 0, 1, 4, 2)
    ]
    for i, made in zip((3, 0, 1, 4, 2), loaded.pixels, strict=True):
        np.testing.assert_array_equal(made, RESIZE(Image.fromarray(pictures()[i])))
    assert [sha for sha, _ in digests(rows)] == loaded.sha256
    data = b"P6 9 6 255\n" + pictures()[0].tobytes()
    assert loaded.sha256[1] == hashlib.sha256(data).hexdigest()


def test_a_path_may_be_relative(mat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mat.parent)
    assert listed("gtsegs:segs.mat") == listed(f"gtsegs:{mat}")
    assert parse_masks("gtsegs:segs.mat") == parse_masks(f"gtsegs:{mat}")


def test_its_masks_are_those_of_its_pictures(mat: Path) -> None:
    rows, source = listed(f"gtsegs:{mat}"), parse_masks(f"gtsegs:{mat}")
    check_masks(Listed(rows), source)
    found = masks_of(rows, source, RESIZE)
    assert found.error == [None] * 4 + [f"no mask: element 4 of {mat} has none"]
    for i in range(4):
        image = Image.fromarray(masks()[i][0])
        np.testing.assert_array_equal(found.masks["aligned"][i], RESIZE.mask(image, 255))
        stretched = np.asarray(image.resize((24, 24), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(found.masks["published"][i], stretched)


def test_its_masks_are_had_for_pictures_of_a_folder(mat: Path, tmp_path: Path) -> None:
    for i in (1, 2):
        path = tmp_path / "photos" / f"n0000000{i}" / f"{NAMES[i]}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pictures()[i]).save(path)
    Image.fromarray(pictures()[3]).save(tmp_path / "photos" / f"{NAMES[0]}.png")
    Image.fromarray(pictures()[3]).save(tmp_path / "photos" / "other.png")
    rows, source = listed(tmp_path / "photos"), parse_masks(f"gtsegs:{mat}")
    check_masks(Listed(rows), source)
    found = masks_of(rows, source, RESIZE)
    told = dict(zip(rows["key"].to_pylist(), found.error, strict=True))
    assert told.pop("other.png") == f"no mask: {mat} has no picture other"
    assert told.pop(f"{NAMES[0]}.png").startswith("a mask of another size than its picture: 9 x 6")
    assert set(told.values()) == {None}
    for i in (1, 2):
        at = rows["key"].to_pylist().index(f"n0000000{i}/{NAMES[i]}.png")
        image = Image.fromarray(masks()[i][0])
        np.testing.assert_array_equal(found.masks["aligned"][at], RESIZE.mask(image, 255))
    with pytest.raises(
        SourceError, match=r"none of the 1 pictures has a mask in .*keys end in, as other$"
    ):
        check_masks(Listed(rows.filter(pc.equal(rows["key"], "other.png"))), source)


def test_pictures_of_a_tar_are_known_by_name_not_by_place(mat: Path, tmp_path: Path) -> None:
    """They have places, too, but in another file; and so has another file of this kind."""
    members = [(f"{NAMES[i]}.png", encode(Image.fromarray(pictures()[i]))) for i in (2, 0)]
    turned = [list(reversed(made[:4])) for made in (pictures(), masks(), NAMES)]
    other = write_mat(tmp_path / "other.mat", *turned)
    source = parse_masks(f"gtsegs:{mat}")
    for place in (write_tar(tmp_path / "a.tar", members), f"gtsegs:{other}"):
        rows = listed(place)
        found = masks_of(rows, source, RESIZE, "aligned")
        assert found.error == [None] * len(rows)
        for key, mask in zip(rows["key"].to_pylist(), found.masks["aligned"], strict=True):
            at = NAMES.index(key.rpartition("/")[2].removesuffix(".png"))
            own = RESIZE.mask(Image.fromarray(masks()[at][0]), 255)
            np.testing.assert_array_equal(mask, own)


def test_elements_that_are_none(mat: Path) -> None:
    with h5py.File(mat, "r+") as file:
        value = file["value"]
        file["#refs#"].create_dataset("grey", data=np.zeros((4, 6), np.uint8))
        file["#refs#"].create_dataset("soft", data=np.arange(54, dtype=np.uint8).reshape(9, 6))
        value["img"][1, 0] = file["#refs#/grey"].ref
        value["img"][2, 0] = h5py.Reference()
        file[file["value/gt"][0, 0]][0, 0] = file["#refs#/soft"].ref
    rows = listed(f"gtsegs:{mat}")
    beyond = rows.slice(4).set_column(3, "offset", pa.array([99]))
    loaded = load_rows(pa.concat_tables([rows, beyond]), RESIZE, (24, 24))
    assert loaded.ok.tolist() == [True, False, False, True, True, False]
    assert loaded.error[1] == "no colours of 8 bits: uint8 (4, 6)"
    assert loaded.error[2].startswith(f"damaged MATLAB file: {mat}, ")
    assert loaded.error[5] == f"no such element: 99, {mat} has 5"
    found = masks_of(rows.slice(0, 1), parse_masks(f"gtsegs:{mat}"), RESIZE)
    assert found.error[0].startswith("a mask of several levels of grey: 0, 1, 2")


def test_files_of_another_kind_are_refused(mat: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("MATLAB 5.0 MAT-file" * 99)
    (tmp_path / "cut.mat").write_bytes(mat.read_bytes()[:5000])
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["value/img"] = np.zeros(3)
    with h5py.File(mat, "r+") as file:
        img = np.asarray(file["value/img"])
    short = tmp_path / "short.mat"
    short.write_bytes(mat.read_bytes())
    with h5py.File(short, "r+") as file:
        del file["value/gt"]
        file["value"].create_dataset("gt", data=img[:2], dtype=h5py.ref_dtype)
    for name, words in {
        "text.mat": "file signature not found",
        "cut.mat": "truncated file",
        "other.mat": "no references at value/img",
        "short.mat": "fields of different lengths",
    }.items():
        for refuse in (refuse_source, listed, parse_masks):
            with pytest.raises(
                SourceError, match=rf"is no file as ImageNet.*'value' with.*: .*{words}"
            ):
                refuse(f"gtsegs:{tmp_path / name}")
    for text, words in {
        "gtsegs:": "name the file, as in gtsegs:",
        f"gtsegs:{tmp_path}/gone.mat": "does not exist",
        f"gtsegs:{tmp_path}": "not a regular file",
        "gtsegs:s3://bucket/a.mat": "copy the file to a disk",
    }.items():
        for refuse in (refuse_source, parse_masks):
            with pytest.raises(SourceError, match=words):
                refuse(text)


def test_a_file_that_is_damaged_further_in_is_told(mat: Path) -> None:
    """Names cannot be read: a refusal. Pictures cannot: bad images, the others are read."""
    table = listed(f"gtsegs:{mat}")
    whole = mat.read_bytes()
    with h5py.File(mat, "r") as file:
        spoiled = {
            name: file[file[f"value/{name}"][2, 0]].id.get_chunk_info(0).byte_offset
            for name in ("img", "id")
        }

    def spoil(name: str) -> None:
        data = bytearray(whole)
        at = spoiled[name] + 512 * (spoiled[name] + 8 > len(data))
        data[at : at + 8] = b"\xff" * 8
        mat.write_bytes(data)

    spoil("img")
    loaded = load_rows(table, RESIZE, (24, 24))
    assert loaded.ok.tolist() == [True, True, False, True, True]
    assert loaded.error[2].startswith(f"damaged MATLAB file: {mat}, ")
    spoil("id")
    with pytest.raises(SourceError, match="damaged MATLAB file: .*Fetch the file again"):
        listed(f"gtsegs:{mat}")
    mat.unlink()
    gone = load_rows(table, RESIZE, (24, 24))
    assert gone.error[0].startswith(f"does not exist: {mat} ")
