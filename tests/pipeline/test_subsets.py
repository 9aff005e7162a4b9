"""Conditions over the image table."""

import pyarrow as pa
import pytest

from pipeline.subsets import SubsetError, parse_where

TABLE = pa.table(
    {
        "label": ["star", "heart", None, "moon"],
        "count": [1, 2, 3, 4],
        "score": [0.5, -1.0, 2.5, None],
        "clean": [True, False, True, True],
    }
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("label == 'star'", [0]),
        ("label != 'star'", [1, 3]),
        ("label == None", [2]),
        ("label != None and clean", [0, 3]),
        ("count in (1, 4)", [0, 3]),
        ("count not in [1, 4]", [1, 2]),
        ("1 < count <= 3", [1, 2]),
        ("not clean or score >= 2.5", [1, 2]),
        ("score < -0.5", [1]),
        ("3 == count", [2]),
        ("count > score", [0, 1, 2]),
        ("label == 'a' or (label == 'moon' and not count == 1)", [3]),
    ],
)
def test_conditions_choose_rows(where, rows):
    index = pa.table({**{n: TABLE[n] for n in TABLE.column_names}, "row": range(4)})
    assert index.filter(parse_where(where, index.schema))["row"].to_pylist() == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("lable == 'star'", r"no column 'lable' .did you mean 'label'.*Columns: label .string"),
        ("label == ", "cannot be read"),
        ("label = 'star'", "cannot be read"),
        ("", "cannot be read"),
        ("label == 3", "does not fit the columns' types"),
        ("count in ('a', 'b')", "does not fit the columns' types"),
        ("label", "does not fit the columns' types"),
        ("__import__('os').system('true')", "is not understood"),
        ("label.upper() == 'STAR'", "is not understood"),
        ("count + 1 == 2", "is not understood"),
        ("label in 'star'", "is not understood"),
        ("label is None", "is not understood"),
        ("count < None", "is not understood"),
    ],
)
def test_what_is_no_condition_is_refused(where, message):
    with pytest.raises(SubsetError, match=message):
        parse_where(where, TABLE.schema)
