"""The tables that results about shared units keep; ``storage/SCHEMA.md`` says what columns are."""

import pyarrow as pa

from storage.results import may_be_unknown

_FIGURES = [
    ("correlation", pa.float64()),
    may_be_unknown("even"),
    may_be_unknown("odd"),
    ("replicates", pa.bool_()),
]
SHARED = {
    "concepts": pa.schema(
        [
            ("concept", pa.int64()),
            ("hub_layer", pa.string()),
            ("hub_unit", pa.int64()),
            ("model", pa.string()),
            ("layer", pa.string()),
            ("unit", pa.int64()),
            *_FIGURES,
        ]
    ),
    "buddies": pa.schema(
        [
            ("model_a", pa.string()),
            ("layer_a", pa.string()),
            ("unit_a", pa.int64()),
            ("model_b", pa.string()),
            ("layer_b", pa.string()),
            ("unit_b", pa.int64()),
            *_FIGURES,
        ]
    ),
    "units": pa.schema(
        {
            "model": pa.string(),
            "layer": pa.string(),
            "unit": pa.int64(),
            "mean": pa.float64(),
            "std": pa.float64(),
            "state": pa.string(),
        }
    ),
}
TRUTH = {
    "truth": pa.schema(
        [
            ("pairing", pa.string()),
            ("draw", pa.int64()),
            ("concept", pa.int64()),
            may_be_unknown("inside"),
            may_be_unknown("inside_gap"),
            ("attribute", pa.string()),
            ("value", pa.string()),
            ("auc", pa.float64()),
            ("agrees", pa.bool_()),
        ]
    )
}
# Of inversions: means of each figure, its paired change from the first loss with intervals over
# pictures, and what hangs on the start.
_OF_FIGURE = ("", "_change", "_low", "_high", "_start_low", "_start_high", "_start_std")
INVERSIONS = {
    "figures": pa.schema(
        [
            ("loss", pa.string()),
            *(
                (f"{name}{suffix}", pa.float64())
                for name in ("psnr", "ssim", "perceptual")
                for suffix in _OF_FIGURE
            ),
        ]
    )
}
