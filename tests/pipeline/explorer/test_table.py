"""The image table: filtered, sorted and paged as a plain loop over its rows would."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.explorer import table
from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.pages.plain import to_json
from pipeline.subsets import SubsetError, parse_where
from storage import ledger, urls
from storage.store import Store
from tests import s3_kit
from tests.pipeline.explorer.pictured import BAD, library, pictured
from tests.storage.stores import ledger_rows, values

DONE = 2  # of three shards


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return pictured(tmp_path_factory.mktemp("a [1] * table"), done=DONE)


@pytest.fixture
def here(store: Store) -> Opened:
    (opened,) = library(store).stores.values()
    return opened


def all_rows(store: Store) -> list[dict[str, Any]]:
    """Every image's row with the ledger's, straight from the parts."""
    said = {row["index"]: row for row in ledger.read_ledger(store.data).to_pylist()}
    found = []
    for row in store.images().to_pylist():
        of_ledger = said.get(row["index"], {})
        found.append(row | {name: of_ledger.get(name) for name in table.OF_LEDGER})
    return found


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


@pytest.mark.parametrize("down", [False, True])
def test_any_column_sorts_missing_last_and_equals_in_the_stores_order(
    here: Opened, down: bool
) -> None:
    every = all_rows(here.store)
    for name in table.fields(here):
        has = sorted((r for r in every if not missing(r[name])), key=lambda r: r["index"])
        has.sort(key=lambda r: r[name], reverse=down)
        lacks = [r for r in every if missing(r[name])]
        expected = [r["index"] for r in has + lacks]
        assert table.matching(here, "", name, down).tolist() == expected, name


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("label == 'class-1'", lambda r: r["label"] == "class-1"),
        ("count in (1, 2) and sunny", lambda r: r["count"] in (1, 2) and r["sunny"]),
        ("weight > 3", lambda r: r["weight"] > 3),
        ("kind == 'k1' or count == None", lambda r: r["kind"] == "k1" or r["count"] is None),
        ("not ok", lambda r: r["ok"] is False),
        ("ok == None", lambda r: r["ok"] is None),
        ("width >= 300 and label != 'class-0'", lambda r: r["width"] and r["label"] != "class-0"),
    ],
)
def test_conditions_are_over_any_column(here: Opened, where: str, kept: Any) -> None:
    expected = [r["index"] for r in all_rows(here.store) if kept(r)]
    assert expected
    assert table.matching(here, where).tolist() == expected
    assert table.matching(here, where, "index", down=True).tolist() == expected[::-1]


def test_conditions_over_the_image_table_are_those_of_subsets(here: Opened) -> None:
    rows = here.store.images()
    for where in ("weight != 3", "count not in (1,)", "not weight == 3.0", "length < 35.5"):
        expected = rows.filter(parse_where(where, rows.schema))["index"].to_pylist()
        assert table.matching(here, where).tolist() == expected, where


@pytest.mark.parametrize("size", [1, 3, 4, 50])
@pytest.mark.parametrize("near", [0, 4096])
def test_pages_follow_each_other(
    here: Opened, monkeypatch: pytest.MonkeyPatch, size: int, near: int
) -> None:
    monkeypatch.setattr(table, "PAGE", size)
    monkeypatch.setattr(table, "NEAR", near)  # rows from memory, or from their parts
    every = {row["index"]: row for row in all_rows(here.store)}
    order = table.matching(here, "count < 2", "weight", True).tolist()
    seen: list[int] = []
    at, back = -1, []
    while True:
        page = table.page(here, "count < 2", "weight", True, at)
        assert page.first == len(seen) + 1
        assert page.before == (back[-1] if back else None)
        for row in page.rows:
            full = every[row.index]
            assert (row.key, row.ok, row.error) == (full["key"], full["ok"], full["error"])
            for name, value in row.values.items():
                assert value == full[name] or (missing(value) and missing(full[name])), name
        seen += [row.index for row in page.rows]
        if page.after is None:
            break
        back.append(at)
        at = page.after
    assert seen == order
    first = table.page(here, "count < 2", "weight", True)
    assert (first.matching, first.images) == (len(order), here.meta.images)
    if first.last is not None:
        last = table.page(here, "count < 2", "weight", True, first.last)
        assert last.after is None
        assert last.rows[-1].index == order[-1]


def test_a_condition_that_nothing_fulfils_is_a_page_without_rows(here: Opened) -> None:
    found = table.page(here, "label == 'none'")
    assert (found.matching, found.first, found.rows) == (0, 0, ())
    assert found.after is found.before is found.last is None


def test_a_page_says_what_is_wrong_with_an_image(here: Opened) -> None:
    rows = {row.index: row for row in table.page(here).rows}
    assert (rows[BAD].ok, rows[BAD].error) == (False, "truncated or damaged")
    assert (rows[0].ok, rows[0].values["width"]) == (True, 300)
    assert rows[9].ok is None


def test_mistakes_are_told(here: Opened) -> None:
    with pytest.raises(NotHere, match="no column 'colour', but index, key"):
        table.page(here, sort="colour")
    with pytest.raises(NotHere, match="image 1 is none of the"):
        table.page(here, "label == 'class-0'", after=1)
    with pytest.raises(SubsetError, match="did you mean 'label'"):
        table.page(here, "labels == 'x'")
    with pytest.raises(SubsetError, match="cannot be read"):
        table.page(here, "label ==")


def test_a_value_becomes_a_condition(here: Opened) -> None:
    found = table.page(here, "sunny")
    for row in found.rows:
        for name in found.columns:
            asked = found.with_value(name, row.values.get(name))
            if name in row.values and asked is not None:
                assert row.index in table.matching(here, asked).tolist()
    assert found.with_value('in the "sky"', "s1") is None
    assert found.with_value("weight", 0.1) is None


def test_columns_that_hold_no_single_value_are_left_out(tmp_path: Path) -> None:
    store = pictured(tmp_path)
    part = Path(store.data) / "images" / "part-000000.parquet"
    rows = pq.read_table(part)
    n = len(rows)
    rows = rows.append_column("box", pa.array([[1, 2]] * n)).append_column(
        "mask", pa.array([b"m"] * n)
    )
    rows = rows.append_column("nothing", pa.nulls(n))
    pq.write_table(rows, part)
    (here,) = library(store).stores.values()
    found = table.page(here, sort="nothing")
    assert not {"box", "mask"} & set(found.columns)
    assert [row.index for row in found.rows] == list(range(n))


def test_what_was_read_is_forgotten_when_the_store_changes(tmp_path: Path) -> None:
    store = pictured(tmp_path, done=1)
    (here,) = library(store).stores.values()
    assert table.matching(here, "ok").tolist() == [0, 1, 2]
    store.write_shard(1, values(store, 1), ledger_rows(store, 1), {"bad": {}})
    here._asked = 0.0  # it is looked at every few seconds
    assert table.matching(here, "ok").tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert np.issubdtype(table.matching(here, "ok").dtype, np.int32)


def test_a_store_on_an_object_store_is_read_like_any_other(tmp_path: Path) -> None:
    store = pictured(tmp_path, done=DONE)
    with s3_kit.serve() as endpoint, s3_kit.used(endpoint) as bucket:
        files, _ = urls.filesystem(bucket)
        files.put(store.url, f"{bucket}/store", recursive=True)
        (there,) = Library([f"{bucket}/store"], [], lambda store, typed: {}).stores.values()
        (here,) = library(store).stores.values()
        for where, sort in (("", "index"), ("not ok", "label"), ("count < 2", "width")):
            pages = [to_json(table.page(opened, where, sort)) for opened in (there, here)]
            assert pages[0] == pages[1]


def test_columns_of_many_parts_are_in_the_stores_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.images.ROWS_PER_IMAGE_PART", 3)
    store = pictured(tmp_path)
    assert len(list((tmp_path / "store" / "images").iterdir())) == 4
    (here,) = library(store).stores.values()
    expected = store.images()
    for name in ("index", "label", "count", "kind"):
        assert table.column(here, name).to_pylist() == expected[name].to_pylist()
