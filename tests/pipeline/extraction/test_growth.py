"""What a listing has that a store lacks."""

import pyarrow as pa
import pytest

from pipeline.extraction.growth import KnownImages
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
