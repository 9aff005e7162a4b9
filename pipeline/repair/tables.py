"""The tables that a repair keeps; ``storage/SCHEMA.md`` says what the columns are."""

import pyarrow as pa

REPAIRS = {
    "accuracy": pa.schema(
        {
            "edit": pa.string(),
            "scope": pa.string(),
            "name": pa.string(),
            "class": pa.string(),
            "value": pa.string(),
            "n": pa.int64(),
            "accuracy": pa.float64(),
            "low": pa.float64(),
            "high": pa.float64(),
            "change": pa.float64(),
            "change_low": pa.float64(),
            "change_high": pa.float64(),
        }
    ),
    "gains": pa.schema(
        {"edit": pa.string(), "layer": pa.int64(), "head": pa.int64(), "gain": pa.float64()}
    ),
    "groups": pa.schema(
        {
            "name": pa.string(),
            "class": pa.string(),
            "value": pa.string(),
            "training": pa.int64(),
            "held_out": pa.int64(),
        }
    ),
}
