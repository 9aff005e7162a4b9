"""Sources that changed under what was made from them: taken as they were, followed, or refused."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.extraction import unchanged
from pipeline.extraction.growth import KnownImages
from pipeline.extraction.unchanged import hold, sample, settle
from pipeline.images.again import digests
from pipeline.images.listing import list_images
from pipeline.images.rows import ROW_ORIGIN
from storage import ledger
from storage.errors import StoreMismatch
from storage.images import read_images, write_images
from tests.pipeline.images.kit import encode, picture, write_tar
from tests.pipeline.images.mat_kit import write_mat

SHARD = 4


def bmp(i: int) -> bytes:
    """Every picture has as many bytes as any other."""
    return encode(picture(i), "BMP")


def keep(url: Path, source: object, done: set[int] | None = None) -> None:
    """The image table of a source, and the ledger of its shards."""
    write_images(str(url), list_images(str(source)))
    table = read_images(str(url))
    for shard, start in enumerate(range(0, len(table), SHARD)):
        if done is None or shard in done:
            write_part(url, shard, table.slice(start, SHARD))


def write_part(url: Path, shard: int, rows: pa.Table) -> None:
    found = digests(rows)
    n = len(rows)
    columns = [rows["index"], [s is not None for s, _ in found], [why for _, why in found],
               [s for s, _ in found], [8] * n, [6] * n]  # fmt: skip
    ledger.write_part(str(url), shard, pa.table(columns, ledger.SCHEMA), {"bad": {}})


def meet(url: Path, source: object, must_read: bool = True) -> tuple[list[str], list[str]]:
    """Keys that the source has gained, and what is said."""
    images = len(read_images(str(url)))
    known = KnownImages(str(url), images, sample(str(url), images, SHARD))
    new = [key for table in known.new(list_images(str(source))) for key in table["key"].to_pylist()]
    notes = settle(
        str(url), images, SHARD, known, str(source), place="`store`", must_read=must_read
    )
    return new, notes


def parquet(path: Path, pictures: list[int], **columns: list) -> Path:
    pq.write_table(pa.table({"image": [bmp(i) for i in pictures], **columns}), path)
    return path


def agrees(url: Path) -> bool:
    """Whether every image lies where the image table says."""
    table = read_images(str(url))
    held = hold(str(url), SHARD, table)
    return held.same == len(table)


def test_rows_in_front_of_a_table_without_keys_are_refused(tmp_path):
    source = parquet(tmp_path / "p.parquet", list(range(5, 15)))
    keep(tmp_path / "s", source)
    parquet(source, list(range(15)))
    with pytest.raises(StoreMismatch, match="10 of 10 that were read again have other contents"):
        meet(tmp_path / "s", source)


def test_every_row_of_a_table_without_keys_is_read_where_the_file_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged, "SAMPLE", 2)
    source = parquet(tmp_path / "p.parquet", list(range(10)))
    keep(tmp_path / "s", source)
    parquet(source, [0, 1, 2, 3, 5, 4, 6, 7, 8, 9])
    with pytest.raises(StoreMismatch, match=r"written anew, and of 10 rows 2 have other contents"):
        meet(tmp_path / "s", source)


def test_rows_behind_a_table_without_keys_are_appended(tmp_path):
    source = parquet(tmp_path / "p.parquet", list(range(10)))
    keep(tmp_path / "s", source)
    first = read_images(str(tmp_path / "s"))[ROW_ORIGIN].to_pylist()
    assert len(set(first)) == 1
    parquet(source, list(range(12)))
    new, notes = meet(tmp_path / "s", source)
    assert new == ["p/00000010", "p/00000011"]
    assert len(notes) == 1
    now = read_images(str(tmp_path / "s"))[ROW_ORIGIN].to_pylist()
    assert set(now).isdisjoint(first)
    assert meet(tmp_path / "s", source) == (new, [])


def test_rows_that_nothing_is_known_of_are_not_taken_for_what_they_were(tmp_path):
    source = parquet(tmp_path / "p.parquet", list(range(10)))
    keep(tmp_path / "s", source, done={0, 2})
    parquet(source, [0, 1, 2, 3, 7, 6, 5, 4, 8, 9])  # the shard that is missing, reversed
    with pytest.raises(StoreMismatch, match="4 are in no finished shard"):
        meet(tmp_path / "s", source)


def test_a_table_of_paths_is_told_by_its_paths(tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.bmp").write_bytes(bmp(i))

    def write(order: list[int]) -> Path:
        rows = {"path": [f"{i}.bmp" for i in order]}
        pq.write_table(pa.table(rows), tmp_path / "p.parquet")
        return tmp_path / "p.parquet"

    keep(tmp_path / "s", write([0, 1, 2, 3, 4, 5]))
    before = read_images(str(tmp_path / "s"))
    assert before[ROW_ORIGIN].to_pylist()[:2] == ["0.bmp", "1.bmp"]
    assert meet(tmp_path / "s", write([0, 1, 2, 3, 4, 5, 6])) == (["p/00000006"], [])
    with pytest.raises(StoreMismatch, match="other contents"):
        meet(tmp_path / "s", write([7, 0, 1, 2, 3, 4, 5]))


@pytest.mark.parametrize("order", [range(9, -1, -1), [9, 11, *range(9), 10]])
def test_rows_with_keys_are_followed_to_where_they_lie(tmp_path, order):
    order = list(order)
    source = parquet(tmp_path / "p.parquet", list(range(10)), key=[f"k{i}" for i in range(10)])
    keep(tmp_path / "s", source)
    parquet(source, order, key=[f"k{i}" for i in order])
    assert not agrees(tmp_path / "s")
    new, notes = meet(tmp_path / "s", source)
    assert new == [f"p/k{i}" for i in order if i >= 10]
    assert "10 images of the store lie elsewhere now" in notes[0]
    assert agrees(tmp_path / "s")
    assert read_images(str(tmp_path / "s"))["key"].to_pylist() == [f"p/k{i}" for i in range(10)]


def test_what_lies_elsewhere_is_looked_at_wherever_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged, "SAMPLE", 2)
    keys = [f"k{i}" for i in range(10)]
    source = parquet(tmp_path / "p.parquet", list(range(10)), key=keys)
    keep(tmp_path / "s", source)
    keys[4], keys[5] = keys[5], keys[4]  # each names the other's picture now
    parquet(source, list(range(10)), key=keys)
    with pytest.raises(StoreMismatch, match=r"2 of 4 that were read again .* \(p/k4, p/k5\)"):
        meet(tmp_path / "s", source)


def test_a_tar_written_anew_is_followed(tmp_path):
    tar = write_tar(tmp_path / "t.tar", [(f"{i}.bmp", bmp(i)) for i in range(6)])
    keep(tmp_path / "s", tar)
    write_tar(tar, [(f"{i}.bmp", bmp(i)) for i in [7, 0, 1, 2, 8, 3, 4, 5]])
    assert meet(tmp_path / "s", tar)[0] == ["t/7", "t/8"]
    assert agrees(tmp_path / "s")


def test_a_moved_folder_is_followed(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(6):
        (tmp_path / "a" / f"{i}.bmp").write_bytes(bmp(i))
    keep(tmp_path / "s", tmp_path / "a", done={0})
    os.rename(tmp_path / "a", tmp_path / "b")
    assert meet(tmp_path / "s", tmp_path / "b")[0] == []
    uris = read_images(str(tmp_path / "s"))["uri"].to_pylist()
    assert uris == [f"{tmp_path}/b/{i}.bmp" for i in range(6)]


@pytest.mark.parametrize("must_read", [True, False])
def test_files_of_the_same_length_are_refused(tmp_path, must_read):
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.bmp").write_bytes(bmp(i))
    keep(tmp_path / "s", folder)
    assert meet(tmp_path / "s", folder, must_read) == ([], [])
    (folder / "5.bmp").write_bytes(bmp(50))
    with pytest.raises(StoreMismatch, match=r"1 of 6 that were read again .* \(5.bmp\)"):
        meet(tmp_path / "s", folder, must_read)


def test_a_file_of_the_same_name_that_sorts_before_is_refused(tmp_path):
    for name in ("a", "b", "0"):
        (tmp_path / name).mkdir()
    parquet(tmp_path / "a" / "p.parquet", [0, 1, 2])
    parquet(tmp_path / "b" / "p.parquet", [3, 4, 5])
    source = f"{tmp_path}/*/p.parquet"
    keep(tmp_path / "s", source)
    parquet(tmp_path / "0" / "p.parquet", [6, 7, 8])
    with pytest.raises(StoreMismatch, match="other contents"):
        meet(tmp_path / "s", source)


def test_images_that_are_gone_matter_only_where_images_are_read(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.bmp").write_bytes(bmp(i))
    source = tmp_path / "p.parquet"
    pq.write_table(pa.table({"path": [f"{i}.bmp" for i in range(4)]}), source)
    keep(tmp_path / "s", source)
    (tmp_path / "2.bmp").unlink()
    _, notes = meet(tmp_path / "s", source)
    assert "1 of 4 that were read again cannot be read" in notes[0]
    assert "2.bmp" in notes[0]
    for i in (0, 1, 3):
        (tmp_path / f"{i}.bmp").unlink()
    assert "4 of 4" in meet(tmp_path / "s", source, must_read=False)[1][0]
    with pytest.raises(StoreMismatch, match="4 of 4 that were read again cannot be read"):
        meet(tmp_path / "s", source)


def test_the_embedded_world_is_held_to_its_pixels(tmp_path):
    keep(tmp_path / "s", "microworld:n=6,seed=1")
    assert len(meet(tmp_path / "s", "microworld:n=8,seed=1")[0]) == 2
    part = ledger.read_part(str(tmp_path / "s"), 1)
    wrong = part.set_column(3, "sha256", pa.array(["0" * 64] * len(part)))
    ledger.write_part(str(tmp_path / "s"), 1, wrong, {})
    with pytest.raises(StoreMismatch, match="2 of 6 that were read again"):
        meet(tmp_path / "s", "microworld:n=6,seed=1")


def test_bad_images_are_held_against_what_was_read_of_them(tmp_path):
    (tmp_path / "f").mkdir()
    for i in range(3):
        (tmp_path / "f" / f"{i}.bmp").write_bytes(bmp(i))
    (tmp_path / "f" / "1.bmp").unlink()
    (tmp_path / "f" / "1.bmp").symlink_to("nowhere")
    keep(tmp_path / "s", tmp_path / "f")
    part = ledger.read_part(str(tmp_path / "s"), 0)
    assert [sha256 is None for sha256 in part["sha256"].to_pylist()].count(True) <= 1
    assert meet(tmp_path / "s", tmp_path / "f")[0] == []


@pytest.mark.parametrize(("images", "done"), [(1, 1), (10, 3), (4001, 1001)])
def test_the_sample_is_bounded_spread_and_has_both_ends(tmp_path, images, done, monkeypatch):
    shards = set(range(done)) - ({1} if done > 1 else set())
    monkeypatch.setattr(ledger, "done_shards", lambda url: shards)
    found = sample(str(tmp_path), images, SHARD)
    assert len(found) <= unchanged.SAMPLE
    assert found[0] == 0
    assert found[-1] == images - 1
    assert set(found // SHARD) <= shards
    assert (np.diff(found) > 0).all()
    if images > 1000:
        assert len(found) == unchanged.SAMPLE
        assert np.diff(found).max() < 2 * images / unchanged.SAMPLE


def test_tars_whose_keys_once_went_past_the_first_dot_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "t.tar", [("0.bmp", bmp(0)), ("0.seg.bmp", bmp(1))])
    (listed,) = list_images(str(tar))
    mask = listed.set_column(1, "key", pa.array(["t/0.seg"])).set_column(0, "index", pa.array([1]))
    url = tmp_path / "store"
    write_images(str(url), [listed, mask])
    for shard in (0, 1):
        write_part(url, shard, read_images(str(url)).slice(shard, 1))
    with pytest.raises(StoreMismatch, match=r"1 of its 2 images are not listed\n.*the first dot"):
        meet(url, tar)
    keep(tmp_path / "new", tar)
    tar.write_bytes(write_tar(tmp_path / "u.tar", [("1.bmp", bmp(0))]).read_bytes())
    with pytest.raises(StoreMismatch) as caught:
        meet(tmp_path / "new", tar)
    assert "first dot" not in str(caught.value)


def mat(path: Path, seeds: list[int]) -> str:
    """A file of pictures and masks, as a source."""
    pictures = [np.asarray(picture(i)) for i in seeds]
    masks = [[np.eye(6, 8, dtype=np.uint8)] for _ in seeds]
    return f"gtsegs:{write_mat(path, pictures, masks, [f'n00000001_{i}' for i in seeds])}"


def test_a_file_of_pictures_and_masks_grows_and_moves_and_may_not_change(tmp_path):
    source = mat(tmp_path / "a.mat", list(range(6)))
    keep(tmp_path / "s", source)
    assert meet(tmp_path / "s", source) == ([], [])
    # Two more, in front, in another file.
    (tmp_path / "a.mat").unlink()
    source = mat(tmp_path / "b.mat", [8, 7, *range(6)])
    new, notes = meet(tmp_path / "s", source)
    assert new == ["n00000001_8", "n00000001_7"]
    assert notes == ["6 images of the store lie elsewhere now: its image table follows"]
    assert agrees(tmp_path / "s")
    names = [f"n00000001_{i}" for i in range(6)]
    write_mat(tmp_path / "b.mat", [np.asarray(picture(i + 1)) for i in range(6)], [[]] * 6, names)
    with pytest.raises(StoreMismatch, match="6 of 6 that were read again have other contents"):
        meet(tmp_path / "s", source)
