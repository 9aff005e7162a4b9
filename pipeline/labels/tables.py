"""The tables that labels keep; ``storage/SCHEMA.md`` says what the columns are."""

import pyarrow as pa

from storage.results import may_be_unknown

LABELS = {
    "labels": pa.schema(
        [
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("label", pa.string()),
            ("fitting", pa.int64()),
            ("share", pa.float64()),
            ("explained", pa.float64()),
            ("variance", pa.float64()),
            may_be_unknown("overlap"),
            ("nearest", pa.string()),
            ("role", pa.string()),
            may_be_unknown("role_share"),
            may_be_unknown("measured"),
        ]
    ),
    "texts": pa.schema(
        {
            "layer": pa.int64(),
            "head": pa.int64(),
            "rank": pa.int64(),
            "text": pa.string(),
            "explained_variance": pa.float64(),
            "fits": pa.bool_(),
        }
    ),
    "properties": pa.schema(
        {"layer": pa.int64(), "head": pa.int64(), "property": pa.string(), "share": pa.float64()}
    ),
    "answers": pa.schema(
        {
            "layer": pa.int64(),
            "head": pa.int64(),
            "question": pa.string(),
            "attempt": pa.int64(),
            "prompt": pa.string(),
            "answer": pa.string(),
            "read": pa.bool_(),
        }
    ),
    "scores": pa.schema([("score", pa.string()), may_be_unknown("value")]),
}
