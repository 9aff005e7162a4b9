"""The tables that results of segmentation keep; ``storage/SCHEMA.md`` says what the columns are."""

import pyarrow as pa

from storage.results import may_be_unknown

# What every method has to answer to, where it is among them.
BASELINE = "raw-attention"
# The figures of a method over a data set, and those of which less is better.
FIGURES = (
    "accuracy", "iou_background", "iou_foreground", "miou", "map", "deletion", "insertion",
)  # fmt: skip
FALLING = ("deletion",)
# What pixels are counted of a picture, as ``scores.Scores`` has them.
COUNTS = (
    "counted",
    "correct",
    "intersection_background",
    "union_background",
    "intersection_foreground",
    "union_foreground",
)
CURVES = ("curve_background", "curve_foreground")
_WITH_INTERVALS = [
    may_be_unknown(f"{name}{end}")
    if name in ("deletion", "insertion")
    else (name + end, pa.float64())
    for name in FIGURES
    for end in ("", "_low", "_high")
]
SEGMENTATION = {
    "pictures": pa.schema(
        [
            ("image", pa.int64()),
            ("key", pa.string()),
            ("class", pa.string()),
            ("method", pa.string()),
            ("protocol", pa.string()),
            *((name, pa.int64()) for name in COUNTS),
            may_be_unknown("average_precision"),
            may_be_unknown("deletion"),
            may_be_unknown("insertion"),
            *((name, pa.list_(pa.int32())) for name in CURVES),
        ]
    ),
    "methods": pa.schema(
        [
            ("method", pa.string()),
            ("protocol", pa.string()),
            ("images", pa.int64()),
            *_WITH_INTERVALS,
        ]
    ),
    "differences": pa.schema(
        {
            "method": pa.string(),
            "protocol": pa.string(),
            "figure": pa.string(),
            "against": pa.string(),
            "change": pa.float64(),
            "change_low": pa.float64(),
            "change_high": pa.float64(),
        }
    ),
    "classes": pa.schema(
        [
            ("class", pa.string()),
            ("method", pa.string()),
            ("protocol", pa.string()),
            ("images", pa.int64()),
            *_WITH_INTERVALS,
        ]
    ),
    "curve": pa.schema(
        {
            "method": pa.string(),
            "protocol": pa.string(),
            "threshold": pa.float64(),
            "precision": pa.float64(),
            "recall": pa.float64(),
        }
    ),
}
