"""What a listing has that a store lacks."""

import pyarrow as pa
import pytest

from pipeline.extraction.growth import KnownImages
from pipeline.images.listing import list_images
from pipeline.images.masks import check_masks, parse_masks
from pipeline.images.resize import Resize
from pipeline.microworld.draw import picture
from storage.images import append_images, read_images, write_images
from tests.pipeline.images.kit import Listed, masks_of
from tests.storage.stores import image_table, new_store


def changed(table: pa.Table, column: str, values: list) -> pa.Table:
    at = table.column_names.index(column)
    return table.set_column(at, column, pa.array(values, table[column].type))


def test_new_rows_wherever_they_stand(tmp_path):
    store = new_store(str(tmp_path))
    listed = image_table(14).take([12, 3, 1, 2, 0, 11, 4, 5, 6, 7, 8, 9])
    known = KnownImages(store.url, store.meta.images)
    new = pa.concat_tables(known.new([listed.slice(0, 5), listed.slice(5)]))
    assert new["key"].to_pylist() == ["image-12", "image-11"]
    assert (known.missing, known.changed) == (0, [])


@pytest.mark.parametrize(
    ("column", "value"), [("length", 7), ("length", None), ("label", None), ("caption", "x")]
)
def test_rows_that_are_not_what_they_were(tmp_path, column, value):
    store = new_store(str(tmp_path))
    table = image_table(10)
    values = table[column].to_pylist()
    values[4] = value
    known = KnownImages(store.url, store.meta.images)
    assert list(known.new([changed(table, column, values)])) == []
    assert (known.missing, known.changed) == (0, ["image-4"])


def test_rows_that_are_gone(tmp_path):
    store = new_store(str(tmp_path))
    known = KnownImages(store.url, store.meta.images)
    assert list(known.new([image_table(8)])) == []
    assert known.missing == 2


def test_a_list_of_before_masks_were_known_is_the_same_and_grows(tmp_path):
    """Its pictures have their masks all the same; the column is there in what came after."""
    url, source = str(tmp_path), "microworld:n={},seed=3,split=val"
    old = pa.concat_tables(list_images(source.format(10))).drop_columns(["mask"])
    write_images(url, [old])
    same = KnownImages(url, 10)
    assert list(same.new(list_images(source.format(10)))) == []
    assert (same.missing, same.changed, same.moved) == (0, [], [])
    grown = KnownImages(url, 10)
    assert append_images(url, 10, grown.new(list_images(source.format(14)))) == 4
    table = read_images(url)
    assert table["mask"].to_pylist() == [None] * 10 + ["microworld"] * 4
    assert table.select(old.column_names).slice(0, 10) == old
    again = KnownImages(url, 14)
    assert list(again.new(list_images(source.format(14)))) == []
    masks = parse_masks("microworld")
    check_masks(Listed(table.slice(0, 10)), masks)
    found = masks_of(table, masks, Resize(64, 64, "bicubic", "squash", 0), "aligned")
    assert found.error == [None] * 14
    assert (found.masks["aligned"][3] == picture(3, "val", 3)[1]).all()
