"""The tables that results about neurons keep; ``storage/SCHEMA.md`` says what the columns are."""

import pyarrow as pa

from pipeline.heads.tables import ABLATIONS
from storage.results import may_be_unknown

NEURONS = {
    "neurons": pa.schema(
        [
            ("layer", pa.int64()),
            ("neuron", pa.int64()),
            ("norm_mean", pa.float64()),
            ("norm_max", pa.float64()),
            ("norm_large", pa.float64()),
            ("explained_top", pa.float64()),
            may_be_unknown("explained"),
            ("positive", pa.int64()),
        ]
    ),
    "top_images": pa.schema(
        {
            "layer": pa.int64(),
            "neuron": pa.int64(),
            "rank": pa.int64(),
            "image": pa.int64(),
            "norm": pa.float64(),
            "score": pa.float64(),
            "peak": pa.float64(),
        }
    ),
}
CODES = {
    "codes": pa.schema(
        {
            "layer": pa.int64(),
            "neuron": pa.int64(),
            "rank": pa.int64(),
            "text": pa.string(),
            "coefficient": pa.float64(),
        }
    ),
    "fits": pa.schema(
        {
            "layer": pa.int64(),
            "neuron": pa.int64(),
            "most": pa.int64(),
            "terms": pa.int64(),
            "residual": pa.float64(),
        }
    ),
    **ABLATIONS,
    "truth": pa.schema(
        {
            "layer": pa.int64(),
            "neuron": pa.int64(),
            "text": pa.string(),
            "attribute": pa.string(),
            "value": pa.string(),
            "auc": pa.float64(),
            "auc_random": pa.float64(),
        }
    ),
}
EFFECTS = {
    "effects": pa.schema(
        {
            "layer": pa.int64(),
            "effect": pa.string(),
            "neurons": pa.int64(),
            "images": pa.int64(),
            "explained": pa.float64(),
        }
    )
}
