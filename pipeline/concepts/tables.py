"""The tables that concepts keep; ``storage/SCHEMA.md`` says what the columns are."""

import pyarrow as pa

from storage.results import may_be_unknown

CONCEPTS = {
    "pictures": pa.schema(
        [
            ("picture", pa.string()),
            ("image", pa.int64()),
            ("method", pa.string()),
            ("active", pa.int64()),
            ("parts", pa.int64()),
            may_be_unknown("left"),
        ]
    ),
    "concepts": pa.schema(
        {
            "picture": pa.string(),
            "image": pa.int64(),
            "method": pa.string(),
            "rank": pa.int64(),
            "text": pa.string(),
            "score": pa.float64(),
            "parts": pa.int64(),
        }
    ),
    "said": pa.schema(
        {
            "picture": pa.string(),
            "method": pa.string(),
            "text": pa.string(),
            "layer": pa.int64(),
            "part": pa.int64(),
            "coefficient": pa.float64(),
            "weight": pa.float64(),
        }
    ),
    "left": pa.schema(
        {
            "picture": pa.string(),
            "image": pa.int64(),
            "method": pa.string(),
            "part": pa.string(),
            "share": pa.float64(),
            "length": pa.float64(),
        }
    ),
}
OVER = {
    "over": pa.schema(
        {
            "method": pa.string(),
            "rank": pa.int64(),
            "text": pa.string(),
            "inside": pa.float64(),
            "outside": pa.float64(),
            "difference": pa.float64(),
            "low": pa.float64(),
            "high": pa.float64(),
            "low_all": pa.float64(),
            "high_all": pa.float64(),
            "share_inside": pa.float64(),
            "share_outside": pa.float64(),
            "share_low": pa.float64(),
            "share_high": pa.float64(),
        }
    ),
    "precision": pa.schema(
        [
            ("series", pa.string()),
            ("at", pa.int64()),
            ("attribute", pa.string()),
            ("images", pa.int64()),
            ("named", pa.int64()),
            ("values", pa.float64()),
            ("precision", pa.float64()),
            *map(may_be_unknown, ("low", "high", "more", "more_low", "more_high")),
        ]
    ),
}
