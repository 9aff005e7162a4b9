"""Results as JSON: whatever a function returns, in the types that JSON has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd


def to_json(value: Any) -> str:
    """One JSON document; figures that are not known are null."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Dataclasses and mappings as objects, tables as lists of rows, arrays as nested lists.

    Fields of a dataclass that hold a picture are left out; NaN and infinity become None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        shown = [f.name for f in fields(value) if "picture" not in f.metadata]
        return {name: plain(getattr(value, name)) for name in shown}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(name): plain(inside) for name, inside in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inside) for inside in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")
