"""Parquet files with image bytes, structs, paths; and those that are not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.images import parquet
from pipeline.images.decode import read_bytes
from pipeline.images.errors import BadImage, SourceError
from pipeline.images.listing import list_images
from pipeline.images.read import ImageReader
from pipeline.images.rows import ListingReport
from tests.pipeline.images.kit import png

N = 11


def listed(source: object, report: ListingReport | None = None) -> pa.Table:
    return pa.concat_tables(list_images(str(source), report=report))


@pytest.mark.parametrize("group", [1, 4, 100])
def test_bytes_are_read_by_row_in_any_order(
    tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 3)
    images = [png(i) for i in range(N)]
    content = {"jpg": images, "label": range(N), "TEXT": [f"text {i}" for i in range(N)]}
    pq.write_table(pa.table(content), tmp_path / "p.parquet", row_group_size=group)
    table = listed(tmp_path / "p.parquet")
    assert table["key"].to_pylist() == [f"p/{i:08d}" for i in range(N)]
    assert table["uri"].to_pylist() == [f"{tmp_path}/p.parquet#jpg"] * N
    assert table["offset"].to_pylist() == list(range(N))
    assert table["label"].to_pylist() == [str(i) for i in range(N)]
    assert table["caption"].to_pylist() == [f"text {i}" for i in range(N)]
    assert "jpg" not in table.column_names
    rows = table.to_pylist()
    with ImageReader() as reader:
        for i in [*range(N), 9, 2, 3, 0, 10]:
            assert reader.read(rows[i]["uri"], rows[i]["offset"], None) == images[i]


def test_hugging_face_structs_and_further_columns(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "b.png").write_bytes(png(1))
    content = {
        "image": [
            {"bytes": png(0), "path": "a.png"},
            {"bytes": None, "path": "img/b.png"},
            {"bytes": None, "path": None},
            None,
        ],
        "key": ["k", None, "k", "z"],
        "length": [1, 2, 3, 4],
        "tags": [["x"], None, [], ["y"]],
        "thumb": [b"1", b"2", b"3", b"4"],
        "big": pa.array([1, 2, 3, 2**64 - 1], pa.uint64()),
        "kind": pa.array(["u", "v", "u", "v"]).dictionary_encode(),
    }
    pq.write_table(pa.table(content), tmp_path / "p.parquet")
    report = ListingReport()
    table = listed(tmp_path / "p.parquet", report)
    assert table["key"].to_pylist() == ["p/k", "p/00000001", "p/k~2", "p/z"]
    assert table["meta_length"].to_pylist() == [1, 2, 3, 4]
    assert table["tags"].to_pylist() == ['["x"]', None, "[]", '["y"]']
    assert table["big"].to_pylist()[3] == str(2**64 - 1)
    assert table["kind"].to_pylist() == ["u", "v", "u", "v"]
    assert report.counts["column of bytes, not kept"] == 1
    rows = table.to_pylist()
    assert [read_bytes(row) for row in rows[:2]] == [png(0), png(1)]
    for row in rows[2:]:
        with pytest.raises(
            BadImage, match=r"nothing in the image column: row \d of .*p.parquet, 'image'"
        ):
            read_bytes(row)


NAMES = ["0.png", None, "2.png"]
BYTES = [png(0), None, png(2)]


@pytest.mark.parametrize(
    "images",
    [
        {"image": pa.array(BYTES, pa.large_binary())},
        {"image": pa.array(BYTES, pa.binary_view())},
        {"image": pa.array(BYTES).dictionary_encode()},
        {"image": [{"bytes": data, "path": "no.png"} if data else None for data in BYTES]},
        {"image": pa.array([{"bytes": b} for b in BYTES], pa.struct({"bytes": pa.binary_view()}))},
        {"path": pa.array(NAMES, pa.large_string())},
        {"path": pa.array(NAMES, pa.string_view())},
        {"path": pa.array(NAMES).dictionary_encode()},
        {"image": [{"path": name} for name in NAMES]},
        {"image": [{"bytes": None, "path": name} for name in NAMES]},
        {"image": pa.nulls(3), "url": NAMES},
        # Bytes go before names, wherever they stand.
        {"image": ["no.png"] * 3, "image_bytes": BYTES},
        {"path": ["no.png"] * 3, "content": BYTES},  # as Spark writes binary files
        {"image": [{"bytes": None, "path": "no.png"}] * 3, "jpg": BYTES},
    ],
    ids=lambda images: str({name: str(pa.array(v).type) for name, v in images.items()}),
)
def test_images_of_any_type(tmp_path: Path, images: dict[str, object]) -> None:
    for i in (0, 2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    pq.write_table(pa.table(images), tmp_path / "p.parquet")
    rows = listed(tmp_path / "p.parquet").to_pylist()
    assert [read_bytes(rows[i]) for i in (0, 2)] == [png(0), png(2)]
    with pytest.raises(BadImage, match="nothing in the image column: row 1 of"):
        read_bytes(rows[1])


def test_further_columns_of_any_type(tmp_path: Path) -> None:
    said = pa.array(['{"a": 1}', None])
    content = {
        "image": [png(0), png(1)],
        "label": pa.array(["x", None], pa.string_view()),
        "caption": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
        "key": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, b"1" * 16])
            .cast(pa.binary(16))),
        "said": pa.ExtensionArray.from_storage(pa.json_(), said),
        "tags": pa.array([["u"], None], pa.list_view(pa.string_view())),
    }  # fmt: skip
    pq.write_table(pa.table(content), tmp_path / "p.parquet")
    report = ListingReport()
    first, second = listed(tmp_path / "p.parquet", report).to_pylist()
    assert (first["label"], first["caption"]) == ("x", "a")
    assert first["key"] == "p/30303030-3030-3030-3030-303030303030"
    assert (first["said"], first["tags"]) == ('{"a": 1}', '["u"]')
    assert [second[name] for name in ("label", "said", "tags")] == [None] * 3
    assert report.counts == {}


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "abs.png").write_bytes(png(1))
    names = ["a.png", str(tmp_path / "abs.png"), "gone.png"]
    pq.write_table(pa.table({"image_path": names, "n": [1, 2, 3]}), tmp_path / "p.parquet")
    rows = listed(tmp_path / "p.parquet").to_pylist()
    assert [row["image_path"] for row in rows] == names
    assert [read_bytes(row) for row in rows[:2]] == [png(0), png(1)]
    with pytest.raises(BadImage, match="does not exist: .*gone.png"):
        read_bytes(rows[2])


def test_rows_without_keys_are_told_by_their_paths_or_by_their_file(tmp_path: Path) -> None:
    def origins(name: str, **columns: list) -> list:
        pq.write_table(pa.table(columns), tmp_path / name)
        return listed(tmp_path / name)["row_origin"].to_pylist()

    data = "data:image/png;base64," + "A" * 10_000
    signed = "https://images.example/a.png?signature=1"
    paths = origins("p.parquet", url=["a.png", None, data, signed], key=[None, None, None, None])
    assert paths[0] == "a.png"
    assert len(set(paths[1:])) == 1
    size = (tmp_path / "p.parquet").stat().st_size
    assert paths[1].startswith(f"{size}-")
    mixed = origins("m.parquet", image=[png(0), png(1)], key=["k", None])
    assert mixed[0] is None
    # A footer is the same whatever the order of images of one length.
    (first, _), (other, _) = (
        origins(f"{i}.parquet", image=list(pair))
        for i, pair in enumerate(([b"a", b"b"], [b"b", b"a"]))
    )
    assert first != other
    pq.write_table(pa.table({"image": [png(0)], "key": ["k"]}), tmp_path / "k.parquet")
    assert "row_origin" not in listed(tmp_path / "k.parquet").column_names


def test_pieces_may_differ_in_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(0)], "a": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"image": [png(1)], "a": ["x"], "b": [2.5]}), tmp_path / "1.parquet")
    table = listed(tmp_path / "*.parquet")
    assert table["a"].to_pylist() == ["1", "x"]
    assert table["b"].to_pylist() == [None, 2.5]


def test_columns_of_the_same_name(tmp_path: Path) -> None:
    columns = {"image": [png(0)], "length": [1], "meta_length": [2]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (row,) = listed(tmp_path / "p.parquet").to_pylist()
    assert (row["meta_length"], row["meta_meta_length"]) == (1, 2)
    table = pa.Table.from_arrays([pa.array([png(0)]), pa.array([1]), pa.array([2])], ["jpg", *"aa"])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(SourceError, match="p.parquet has several columns called 'a'"):
        listed(tmp_path / "p.parquet")


def test_files_without_images_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1], "image": [3]}), tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello " * 50)
    with pytest.raises(SourceError, match=r"no image column. Its columns: x \(int64\), image"):
        listed(tmp_path / "none.parquet")
    with pytest.raises(SourceError, match="is not a Parquet file, or is cut"):
        listed(tmp_path / "text.parquet")
