"""The tables that results about heads keep; ``storage/SCHEMA.md`` says what the columns are."""

import pyarrow as pa

from storage.results import may_be_unknown

DESCRIPTIONS = {
    "descriptions": pa.schema(
        {
            "layer": pa.int64(),
            "head": pa.int64(),
            "rank": pa.int64(),
            "text": pa.string(),
            "score": pa.float64(),
            "explained_variance": pa.float64(),
            "cumulative": pa.float64(),
        }
    ),
    "images": pa.schema(
        {
            "layer": pa.int64(),
            "head": pa.int64(),
            "rank": pa.int64(),
            "place": pa.int64(),
            "image": pa.int64(),
            "key": pa.string(),
            "score": pa.float64(),
        }
    ),
    "roles": pa.schema(
        {
            "layer": pa.int64(),
            "head": pa.int64(),
            "attribute": pa.string(),
            "share": pa.float64(),
            "variance": pa.float64(),
            "texts_about": pa.int64(),
        }
    ),
}
ABLATIONS = {
    "accuracy": pa.schema(
        {
            "study": pa.string(),
            "series": pa.string(),
            "at": pa.string(),
            "ablation": pa.string(),
            "scope": pa.string(),
            "name": pa.string(),
            "n": pa.int64(),
            "accuracy": pa.float64(),
            "low": pa.float64(),
            "high": pa.float64(),
            "change": pa.float64(),
            "change_low": pa.float64(),
            "change_high": pa.float64(),
        }
    )
}
# The tables that a comparison keeps; `component`, `layer` and `head` say of what.
_PART = {"component": pa.string(), "layer": pa.int64(), "head": pa.int64()}
TWO_SETS = {
    "parts": pa.schema(
        [
            *pa.schema(_PART),
            pa.field("distance", pa.float64()),
            pa.field("chance", pa.float64()),
            may_be_unknown("fisher"),
            pa.field("share", pa.float64()),
        ]
    ),
    "texts": pa.schema(
        {
            **_PART,
            "rank": pa.int64(),
            "text": pa.string(),
            "towards": pa.string(),
            "explained": pa.float64(),
            "cumulative": pa.float64(),
        }
    ),
}
