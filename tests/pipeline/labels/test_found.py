"""Heads by their label."""

import pyarrow as pa
import pytest

from pipeline.labels.found import heads_with
from storage import views
from storage.errors import FacetError, StoreError
from storage.results import save_result
from storage.store import open_store
from tests.storage import stores

COLUMNS = {"layer": pa.int64(), "head": pa.int64(), "label": pa.string()}


def keep(store, named: str, *rows):
    table = pa.Table.from_pylist(
        [dict(zip(COLUMNS, row, strict=True)) for row in rows], pa.schema(COLUMNS)
    )
    save_result(store.url, "label", {"named": named}, {}, tables={"labels": table})


def test_heads_of_the_labels_that_were_asked_for_last(tmp_path):
    store = stores.new_store(str(tmp_path / "s"))
    with pytest.raises(StoreError, match="no results of label") as told:
        heads_with(store, "colours")
    assert told.value.remedy.name == "label"
    keep(store, "first", (0, 0, "shapes"))
    keep(store, "second", (1, 2, "colours"), (0, 1, "colours"), (1, 0, None), (1, 1, "animals"))
    assert heads_with(store, "Colours ") == ((0, 1), (1, 2))
    for unknown in ("shapes", "", "None"):
        with pytest.raises(FacetError, match=r"labels there are: animals, colours$"):
            heads_with(store, unknown)
    views.make(store.url, str(tmp_path / "view"), store.meta)
    view = open_store(str(tmp_path / "view"))
    assert heads_with(view, "colours") == ((0, 1), (1, 2))
    keep(view, "own", (1, 1, "colours"))
    assert heads_with(view, "colours") == ((1, 1),)
    keep(store, "third", (0, 0, None))
    with pytest.raises(FacetError, match="none: no head was given a label"):
        heads_with(store, "colours")
