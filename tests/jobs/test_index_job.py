"""The index as a command: what it holds, what is told, and a build that is killed."""

import pytest

from jobs import index
from jobs.index import IndexConfig
from storage import head_index
from storage.errors import FacetError
from tests.storage import stores

HERE = {"workers": "here"}
HEADS = [f"heads/{layer}.{head}" for layer in (0, 1) for head in (0, 1, 2)]


@pytest.fixture
def store(tmp_path):
    return stores.fill(stores.new_store(str(tmp_path / "s")))


def test_parts_are_those_that_are_asked_for(store, capsys):
    index.main(IndexConfig(store.url, layers="1", **HERE))
    assert head_index.kept_parts(store.url) == HEADS[3:]
    said = capsys.readouterr().out
    assert "indexing 3 parts of 3 shards: up to 144 Bytes to write" in said
    index.main(IndexConfig(store.url, layers="all", blocks="0,2", embedding=True, **HERE))
    parts = ["blocks/0", "blocks/2", "embedding", *HEADS]
    assert head_index.kept_parts(store.url) == parts
    capsys.readouterr()
    index.main(IndexConfig(store.url, layers="all", blocks="0,2", embedding=True, **HERE))
    assert "all is done" in capsys.readouterr().out
    for wrong, words in (
        ({"layers": "2"}, "`layers` 2: the model's layers are 0-1"),
        ({"blocks": "3"}, "`blocks` 3: the model's blocks are 0-2"),
    ):
        with pytest.raises(FacetError, match=words):
            index.main(IndexConfig(store.url, **{"layers": "all", **wrong}))
