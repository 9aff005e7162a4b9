"""The tables that an alignment keeps; ``storage/SCHEMA.md`` says what the columns are."""

import pyarrow as pa

from storage.results import may_be_unknown

ALIGNED = {
    "pairs": pa.schema(
        [
            ("from_layer", pa.int64()),
            ("from_head", pa.int64()),
            ("to_layer", pa.int64()),
            ("to_head", pa.int64()),
            may_be_unknown("cka"),
            may_be_unknown("cca"),
            may_be_unknown("cca_largest"),
        ]
    ),
    "texts": pa.schema(
        [
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("rank", pa.int64()),
            ("text", pa.string()),
            ("score", pa.float64()),
            ("explained_variance", pa.float64()),
            ("cumulative", pa.float64()),
            may_be_unknown("r2"),
        ]
    ),
}
