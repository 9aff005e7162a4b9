"""Tars as img2dataset writes them, and as they come out of accidents."""

import hashlib
import io
import itertools
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.decode import decode, read_bytes
from pipeline.images.errors import BadImage, SourceError
from pipeline.images.listing import list_images
from pipeline.images.rows import ListingReport
from tests.pipeline.images.kit import png, write_tar


def listed(source: object, report: ListingReport | None = None) -> pa.Table:
    return pa.concat_tables(list_images(str(source), report=report))


def test_sidecars_become_label_caption_and_metadata(tmp_path: Path) -> None:
    said = {"key": "a", "label": 3, "caption": "json", "width": 8, "exif": {"f": 2}, "url": None}
    write_tar(
        tmp_path / "00000.tar",
        [
            ("a.txt", b" a cat\n"), ("a.PNG", png(0)), ("a.json", json.dumps(said).encode()),
            ("./b.png", png(1)), ("b.cls", b"7\n"), ("b.json", b'{"length": 1.5, "label": "7"}'),
            ("ünï/日本.png", png(2)), ("ünï/日本.txt", "日本".encode()),
        ],
    )  # fmt: skip
    table = listed(tmp_path / "00000.tar")
    assert table["index"].to_pylist() == [0, 1, 2]
    assert table["key"].to_pylist() == ["00000/a", "00000/b", "00000/ünï/日本"]
    assert table["label"].to_pylist() == ["3", "7", None]
    assert table["caption"].to_pylist() == ["a cat", None, "日本"]
    assert table["width"].to_pylist() == [8, None, None]
    assert table["exif"].to_pylist() == ['{"f": 2}', None, None]
    assert table["meta_length"].to_pylist() == [None, 1.5, None]
    # .txt wins over the caption in .json, which is kept where it says something else.
    assert table["meta_caption"].to_pylist() == ["json", None, None]
    assert "meta_key" not in table.column_names
    assert "meta_label" not in table.column_names


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_sidecars_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    texts = {"a.txt": "a\u2028cat\r\n", "a.cls": "7", "a.json": '{"author": "ä"}'}
    sidecars = [(name, text.encode(encoding)) for name, text in texts.items()]
    report = ListingReport()
    (row,) = listed(
        write_tar(tmp_path / "t.tar", [*sidecars, ("a.png", png(0))]), report
    ).to_pylist()
    assert (row["caption"], row["label"], row["author"]) == ("a\u2028cat", "7", "ä")
    assert report.counts == {}


def test_bytes_of_a_sidecar_that_are_no_text_are_counted(tmp_path: Path) -> None:
    sidecars = [("a.txt", b"caf\xe9"), ("a.json", b'{"by": "Ren\xe9"}'), ("a.cls", b"3")]
    report = ListingReport()
    (row,) = listed(
        write_tar(tmp_path / "t.tar", [*sidecars, ("a.png", png(0))]), report
    ).to_pylist()
    assert (row["caption"], row["by"], row["label"]) == ("caf\ufffd", "Ren\ufffd", "3")
    assert report.lines() == ["2 x text with bytes that are not UTF-8, replaced: a.txt, a.json"]


def test_random_access_equals_sequential_extraction(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [(f"{'x' * 150}{i}.png", png(i)) for i in range(20)])
    rows = listed(path).to_pylist()
    with tarfile.open(path) as tar:
        expected = [tar.extractfile(m).read() for m in tar]  # type: ignore[union-attr]
    for i in reversed(range(20)):
        assert read_bytes(rows[i]) == expected[i]


@settings(max_examples=15)
@given(st.integers(1, 12), st.data())
def test_the_list_does_not_depend_on_how_tars_are_cut(
    tmp_path_factory: pytest.TempPathFactory, n: int, data: st.DataObject
) -> None:
    # Beyond 2**53 whole numbers lose digits once fractions stand in their column.
    whole = st.integers(-(2**53), 2**53)
    values = st.one_of(st.none(), st.booleans(), whole, st.floats(), st.text(max_size=3))
    samples = [
        [(f"{i:04d}.png", png(i)), (f"{i:04d}.json", json.dumps({"v": v}).encode())]
        for i, v in enumerate(data.draw(st.lists(values, min_size=n, max_size=n)))
    ]
    results = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("cut")
        cuts = sorted(data.draw(st.sets(st.integers(1, n), max_size=3)) | {0, n})
        for t, (start, stop) in enumerate(itertools.pairwise(cuts)):
            write_tar(folder / f"{t:05d}.tar", [m for s in samples[start:stop] for m in s])
        table = listed(folder / "*.tar")
        keys = [key.split("/", 1)[1] for key in table["key"].to_pylist()]
        digests = [hashlib.sha256(read_bytes(row)).hexdigest() for row in table.to_pylist()]
        results.append((keys, digests, str(table["v"].to_pylist()), table["v"].type))
    assert results[0] == results[1]
    assert len(results[0][0]) == n


def test_duplicate_keys_are_kept_and_counted(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    members = [("a.png", png(0)), ("a.txt", b"one"), ("a.png", png(1)), ("a.txt", b"two")]
    write_tar(tmp_path / "t.tar", [*members, ("b.jpg", b"x"), ("b.png", png(2)), ("b.txt", b"b")])
    write_tar(tmp_path / "z" / "t.tar", [("a.png", png(3))])
    report = ListingReport()
    table = listed(f"{tmp_path}/{{,z/}}t.tar", report)
    assert table["key"].to_pylist() == ["t/a", "t/a~2", "t/b", "t/a~3"]
    assert table["caption"].to_pylist() == ["one", "two", "b", None]
    assert report.counts == {
        "duplicate key, kept under a new one": 2,
        "further picture of a sample, not an image of its own": 1,
    }
    assert report.lines()[0].endswith("t/a -> t/a~2, t/a -> t/a~3")
    assert report.facts()[f"  listing: {FURTHER}"] == "1, such as b.png"
    assert report.images == 4


# What follows a name's first dot is a field of its sample, as in WebDataset.
FURTHER = "further picture of a sample, not an image of its own"
NONE = "picture of a sample (its key ends at the first dot) without a plain KEY.jpg"
MISSING = "picture of a sample whose image is missing"


@pytest.mark.parametrize(
    ("names", "images", "counts"),
    [
        ("0.jpg 0.seg.png 1.jpg 1.seg.png", {"0": "0.jpg", "1": "1.jpg"}, {FURTHER: 2}),
        ("0.seg.png 0.jpg 1.seg.png", {"0": "0.jpg"}, {FURTHER: 1, MISSING: 1}),
        ("0.png 0.jpg 1.PNG", {"0": "0.jpg", "1": "1.PNG"}, {FURTHER: 1}),
        ("0.pgm 0.webp", {"0": "0.webp"}, {FURTHER: 1}),
        ("0.output.jpg 0.input.png", {"0": "0.input.png"}, {FURTHER: 1}),
        ("0.v2.jpg 1.v3.jpg", {"0": "0.v2.jpg", "1": "1.v3.jpg"}, {}),
        ("0.left.jpg 0.right.jpg 1.jpg", {"1": "1.jpg"}, {NONE: 2}),
        ("v1.0/0.jpg v1.0/0.b.c.png", {"v1.0/0": "v1.0/0.jpg"}, {FURTHER: 1}),
        ("0.jpg 0.seg.png 0.jpg 0.seg.png", {"0": "0.jpg", "0~2": "0.jpg"},
         {FURTHER: 2, "duplicate key, kept under a new one": 1}),
    ],
)  # fmt: skip
def test_a_sample_has_one_image(
    tmp_path: Path, names: str, images: dict[str, str], counts: dict[str, int]
) -> None:
    path = write_tar(tmp_path / "t.tar", [(n, png(i)) for i, n in enumerate(names.split())])
    report = ListingReport()
    table = listed(path, report)
    assert table["key"].to_pylist() == [f"t/{key}" for key in images]
    with tarfile.open(path) as tar:
        places = [(m.name, m.offset_data) for m in tar]
    assert [next(n for n, at in places if at == offset) for offset in table["offset"].to_pylist()] \
        == list(images.values())  # fmt: skip
    assert report.counts == counts


def test_texts_of_a_sample(tmp_path: Path) -> None:
    members = [
        ("s0.input.jpg", png(0)), ("s0.outputs.txt", b"a red square"), ("s0.cls", b"7"),
        ("s0.meta.JSON", b'{"by": "me"}'),
        ("s1.jpg", png(1)), ("s1.ocr.txt", b"STOP"), ("s1.txt", b"a sign"),
        ("s2.jpg", png(2)), ("s2.de.txt", b"Haus"), ("s2.en.txt", b"house"), ("s2.mytxt", b"?"),
    ]  # fmt: skip
    report = ListingReport()
    table = listed(write_tar(tmp_path / "t.tar", members), report)
    assert table["caption"].to_pylist() == ["a red square", "a sign", None]
    assert table["label"].to_pylist() == ["7", None, None]
    assert table["by"].to_pylist() == ["me", None, None]
    assert report.counts == {
        "further text of a sample, not read": 3,
        "tar member that is neither image, .txt, .json nor .cls": 1,
    }


def test_names_with_many_dots_say_what_is_wrong(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [(f"frame.{i:04d}.jpg", png(i)) for i in range(9)])
    with pytest.raises(SourceError, match=r"Left out: 9 x .*key ends at the first dot.*frame.0000"):
        listed(path)


def test_members_that_are_no_images_are_counted(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "t.tar",
        [
            ("a.png", png(0)), ("orphan.txt", b"words"), ("b.npy", b"1"), ("._a.png", b"mac"),
            ("c.png", png(1)), ("c.json", b"[1, 2]"), ("../../etc/passwd.png", png(2)),
        ],
    )  # fmt: skip
    with tarfile.open(path, "a") as tar:
        folder, link = tarfile.TarInfo("folder"), tarfile.TarInfo("link.png")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(folder)
        tar.addfile(link)
    report = ListingReport()
    table = listed(path, report)
    assert table["key"].to_pylist() == ["t/a", "t/c", "t/../../etc/passwd"]
    assert [decode(read_bytes(row)).size for row in table.to_pylist()] == [(8, 6)] * 3
    assert report.counts == {
        "tar member without an image": 1,
        "tar member that is neither image, .txt, .json nor .cls": 1,
        "hidden tar member": 1,
        "metadata is no JSON object": 1,
        "tar member that is no plain file": 2,
    }
    assert "1 x tar member without an image: orphan.txt" in report.lines()


@pytest.mark.parametrize("end", [2048, 2100, 2559, 2560, 2600, 2900, 3071, 3072, 3072 + 511])
def test_a_tar_cut_anywhere_keeps_what_came_before(tmp_path: Path, end: int) -> None:
    image = png(0)  # a header and one block each
    assert 200 < len(image) < 300
    whole = write_tar(tmp_path / "whole.tar", [(f"{i}.png", image) for i in range(3)])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:end])
    report = ListingReport()
    rows = listed(cut, report).to_pylist()
    assert [read_bytes(row) for row in rows[:2]] == [image] * 2
    (reason,) = report.counts
    assert reason.startswith("tar is cut")
    assert len(rows) == (3 if end >= 2560 else 2)


def test_the_image_that_a_cut_goes_through_is_a_bad_image(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("a.png", png(0)), ("b.png", png(1))])
    row = listed(path).to_pylist()[1]
    path.write_bytes(path.read_bytes()[: row["offset"] + 100])
    report = ListingReport()
    rows = listed(path, report).to_pylist()
    assert report.counts == {"tar is cut inside a member": 1}
    assert rows[1]["key"] == "t/b"
    with pytest.raises(BadImage, match=r"cut tar: .*t.tar ends 100 bytes into this image of \d+"):
        read_bytes(rows[1])


def test_damage_and_a_second_archive_are_reported(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("a.png", png(0)), ("b.png", png(1))])
    whole = bytearray(path.read_bytes())
    (tmp_path / "two.tar").write_bytes(bytes(whole) * 2)
    whole[1024:1100] = b"?" * 76
    (tmp_path / "damaged.tar").write_bytes(bytes(whole))
    for name, words in [("two", "goes on after its end marker"), ("damaged", "is damaged")]:
        report = ListingReport()
        listed(tmp_path / f"{name}.tar", report)
        (reason,) = report.counts
        assert words in reason


def test_what_is_no_plain_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("hello " * 500)
    (tmp_path / "empty.tar").write_bytes(b"")
    with tarfile.open(tmp_path / "zip.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    write_tar(tmp_path / "none.tar", [("a.txt", b"words")])
    for name, words in [
        ("text", "text.tar is not a tar .*Remove it, or leave it out"),
        ("empty", "empty.tar is empty"),
        ("zip", r"compressed \(gzip\).*Unpack it to a plain .tar"),
        ("none", "No image in .*1 x tar member without an image: a.txt"),
    ]:
        with pytest.raises(SourceError, match=words):
            listed(tmp_path / f"{name}.tar")
