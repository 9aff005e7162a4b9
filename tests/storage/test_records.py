"""Records: JSON in, a frozen dataclass out, and every field that is wrong is named."""

import json
from dataclasses import asdict, dataclass

import pytest

from storage.errors import StoreError
from storage.records import of_json
from storage.rosetta import Card, UnitLayer
from tests.storage.stores import metadata


@dataclass(frozen=True)
class Runs:
    shards: dict[str, list[tuple[int, int]]]
    where: str | None = None


@pytest.mark.parametrize(
    "record",
    [
        Runs({"heads": [(0, 3), (5, 5)]}),
        Card("a:b", "00", (UnitLayer("x", 2, 1, 1), UnitLayer("y", 3, 4, 4)), {"size": [8, 8]}),
        metadata(),
    ],
    ids=lambda record: type(record).__name__,
)
def test_what_was_written_is_read(record):
    back = of_json(type(record), json.loads(json.dumps(asdict(record))), "it")
    assert back == record


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"where": None}, "the runs lacks shards"),
        ({"shards": {}, "were": 1}, "the runs lacks where; has unknown were"),
        (None, "the runs is no record"),
    ],
)
def test_fields_that_are_wrong_are_named(raw, words):
    with pytest.raises(StoreError, match=words):
        of_json(Runs, raw, "the runs")
