"""The tables that the stages of adversarial images keep, a result each.

``storage/SCHEMA.md`` says what the columns are. In all of them ``source`` says where the cues came
from: see ``choices.Source``.
"""

import pyarrow as pa

from storage.results import may_be_unknown

CUES = {
    "cues": pa.schema(
        [
            ("source", pa.string()),
            ("repeat", pa.int64()),
            ("rank", pa.int64()),
            ("text", pa.string()),
            may_be_unknown("score"),
            may_be_unknown("similarity"),
            ("used", pa.bool_()),
            ("why", pa.string()),
        ]
    ),
    "neurons": pa.schema(
        {
            "source": pa.string(),
            "repeat": pa.int64(),
            "layer": pa.int64(),
            "neuron": pa.int64(),
            "projection": pa.float64(),
        }
    ),
}
DESCRIPTIONS = {
    "descriptions": pa.schema(
        {
            "source": pa.string(),
            "repeat": pa.int64(),
            "number": pa.int64(),
            "text": pa.string(),
            "cues": pa.list_(pa.string()),
            "kept": pa.bool_(),
            "why": pa.string(),
            "chosen": pa.bool_(),
        }
    ),
    "answers": pa.schema(
        {
            "source": pa.string(),
            "repeat": pa.int64(),
            "attempt": pa.int64(),
            "prompt": pa.string(),
            "answer": pa.string(),
        }
    ),
}
PICTURES = {
    "pictures": pa.schema(
        {
            "source": pa.string(),
            "repeat": pa.int64(),
            "description": pa.int64(),
            "number": pa.int64(),
            "text": pa.string(),
            "seed": pa.int64(),
            "file": pa.string(),
            "became": pa.string(),
            "why": pa.string(),
            "there": pa.bool_(),
        }
    ),
}
JUDGED = {
    "judged": pa.schema(
        [
            ("source", pa.string()),
            ("repeat", pa.int64()),
            ("description", pa.int64()),
            ("number", pa.int64()),
            ("file", pa.string()),
            ("outcome", pa.string()),
            may_be_unknown("margin"),
        ]
    ),
    "rates": pa.schema(
        [
            ("source", pa.string()),
            ("repeat", pa.int64()),
            ("pictures", pa.int64()),
            ("blank", pa.int64()),
            ("refused", pa.int64()),
            ("there", pa.int64()),
            ("fooled", pa.int64()),
            may_be_unknown("share"),
        ]
    ),
    "table": pa.schema(
        [
            ("source", pa.string()),
            ("repeats", pa.int64()),
            ("there", pa.int64()),
            ("fooled", pa.float64()),
            may_be_unknown("deviation"),
            may_be_unknown("share"),
            may_be_unknown("low"),
            may_be_unknown("high"),
            may_be_unknown("less"),
            may_be_unknown("less_low"),
            may_be_unknown("less_high"),
        ]
    ),
}
