"""Conditions over the image table."""

import math
import operator
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        ("label not in ('star',)", [1, 3]),
        ("not label in ('star',)", [1, 3]),
        ("not label == 'star'", [1, 3]),
        ("not (label == 'star' and clean)", [1, 3]),
        ("not (count > 9 and label == 'star')", [0, 1, 2, 3]),
        ("label not in ()", [0, 1, 3]),
        ("label in (None, 'star')", [0, 2]),
        ("label not in (None, 'star')", [1, 3]),
        ("None == label", [2]),
        ("not 0 < score < 1", [1, 2]),
        ("count in (1.5, 2)", [1]),
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
        ("1 == 1", "'1 == 1' is not understood"),
        ("count in (1, 'a')", "does not fit the columns' types"),
        ("label in ('a', 1)", "does not fit the columns' types"),
        ("count in (True,)", "count is int64, and it is compared with True"),
        ("clean in (1,)", "clean is bool, and it is compared with 1"),
        ("score", "score is double, which is neither true nor false"),
        ("count == 99999999999999999999", "does not fit the columns' types"),
        ("score == " + "9" * 400, "does not fit the columns' types"),
        ("not " * 5000 + "clean", "cannot be read|more than 300 times"),
        (" or ".join(["count == 1"] * 30_000), "names columns more than 300 times"),
    ],
)
def test_what_is_no_condition_is_refused(where, message):
    with pytest.raises(SubsetError, match=message):
        parse_where(where, TABLE.schema)


@pytest.mark.parametrize(
    ("type_", "values", "where", "rows"),
    [
        (pa.int64(), [2**40, -3, None], "x > 1.5", [0]),  # not rounded to float32
        (pa.int64(), [2**53 + 1, 2**53, None], "x == 9007199254740993", [0]),
        (pa.uint64(), [2**63 + 5, 2, None], "x == 9223372036854775813", [0]),
        (pa.uint64(), [2**63 + 5, 2, None], "x > y", [0]),  # y holds int64
        (pa.uint8(), [44, 255, None], "x in (300, -1)", []),
        (pa.float32(), [0.1, math.nan, None], "x == 0.1", [0]),
        (pa.float32(), [0.1, math.nan, None], "x in (0.1, 7)", [0]),
        (pa.float32(), [0.1, math.nan, None], "not x == 0.1", []),
        (pa.float16(), [1, math.nan, None], "x == None", [1, 2]),
        (pa.float64(), [math.inf, math.nan, 1], "x != 1", [0]),
        (pa.float64(), [math.inf, math.nan, 1], "x == y", [2]),
        (pa.timestamp("us"), [0, 10**15, None], "x > '2000-01-01'", [1]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "b", None], "x not in ('a',)", [1]),
        (pa.dictionary(pa.int8(), pa.float64()), [0.5, math.nan, None], "x == None", [1, 2]),
        (pa.decimal128(24, 1), [Decimal("1.5"), 2, None], "x > 1 and x != 1.5", [1]),
        (pa.decimal128(24, 1), [Decimal("1.5"), 4, None], "x > y", [1]),
        (pa.null(), [None] * 3, "x != 1", []),
        (pa.null(), [None] * 3, "x not in (1,)", []),
    ],
)
def test_columns_of_every_type_compare_by_value(type_, values, where, rows):
    table = pa.table({"x": pa.array(values, type_), "y": [3, 3, 1], "row": range(3)})
    assert table.filter(parse_where(where, table.schema))["row"].to_pylist() == rows


# -- three-valued logic, beside the same in plain Python -----------------------------------

COLUMNS = {
    "whole": (pa.int16(), st.integers(-2, 2)),
    "real": (pa.float64(), st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf, math.nan])),
    "text": (pa.string(), st.sampled_from(["", "a", "b"])),
    "truth": (pa.bool_(), st.booleans()),
}
COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def known(value):
    return value is not None and value == value


def negate(value):
    return None if value is None else not value


def both(a, b):
    return False if a is False or b is False else None if None in (a, b) else True


@st.composite
def comparisons(draw):
    """A comparison as text, and as a function of a row."""
    name = draw(st.sampled_from(["whole", "real", "text"]))
    own = {"whole": st.sampled_from([-1, 0, 1, 1.5]), "real": st.sampled_from([-1, 0, 0.5, 2])}
    value = own.get(name, COLUMNS["text"][1])
    match draw(st.sampled_from(["value", "none", "among", "between", "columns", "truth"])):
        case "value":
            by, v = draw(st.sampled_from(list(COMPARE))), draw(value)
            forms = (f"{name} {by} {v!r}", lambda x: COMPARE[by](x, v))
            if draw(st.booleans()):
                forms = (f"{v!r} {by} {name}", lambda x: COMPARE[by](v, x))
            return forms[0], lambda row: forms[1](row[name]) if known(row[name]) else None
        case "none":
            by = draw(st.sampled_from(["==", "!="]))
            return f"{name} {by} None", lambda row: known(row[name]) == (by == "!=")
        case "among":
            several = draw(st.lists(value | st.none(), max_size=3))
            written = "[" + ", ".join(map(repr, several)) + "]"

            def among(row):
                if known(row[name]):
                    return row[name] in several
                return True if None in several else None

            if draw(st.booleans()):
                return f"{name} in {written}", among
            return f"{name} not in {written}", lambda row: negate(among(row))
        case "between":
            low, high = draw(value), draw(value)
            return (
                f"{low!r} <= {name} < {high!r}",
                lambda row: low <= row[name] < high if known(row[name]) else None,
            )
        case "columns":
            by = draw(st.sampled_from(list(COMPARE)))
            return (
                f"whole {by} real",
                lambda row: (
                    COMPARE[by](row["whole"], row["real"])
                    if known(row["whole"]) and known(row["real"])
                    else None
                ),
            )
    return "truth", lambda row: row["truth"]


def nested(inner):
    pairs = st.tuples(inner, inner)
    return st.one_of(
        inner.map(lambda c: (f"not ({c[0]})", lambda row: negate(c[1](row)))),
        pairs.map(lambda p: (
            f"({p[0][0]}) and ({p[1][0]})", lambda row: both(p[0][1](row), p[1][1](row)))),
        pairs.map(lambda p: (
            f"({p[0][0]}) or ({p[1][0]})",
            lambda row: negate(both(negate(p[0][1](row)), negate(p[1][1](row)))))),
    )  # fmt: skip


ROWS = st.lists(
    st.fixed_dictionaries({n: st.none() | values for n, (_, values) in COLUMNS.items()}),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200)
@given(ROWS, st.recursive(comparisons(), nested, max_leaves=6))
def test_a_missing_value_matches_nothing_but_none(rows, condition):
    where, expected = condition
    columns = {n: pa.array([r[n] for r in rows], of) for n, (of, _) in COLUMNS.items()}
    table = pa.table({**columns, "row": range(len(rows))})
    found = table.filter(parse_where(where, table.schema))["row"].to_pylist()
    assert found == [i for i, row in enumerate(rows) if expected(row) is True], where
