"""Records in a store: JSON outside, a frozen dataclass inside, one reader between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import StoreError

Record = TypeVar("Record")


def of_json(kind: type[Record], raw: Any, what: str) -> Record:
    """A record from its JSON: lists become tuples where the dataclass has them.

    Parameters
    ----------
    kind : type
        A dataclass.
    raw : dict
        As it was read.
    what : str
        What it is of, for the message.

    Raises
    ------
    StoreError
        If it lacks or adds fields; all are named.
    """
    refuse_fields(raw, {f.name for f in fields(kind)}, what)  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    return kind(**{name: _of(hints[name], value, what) for name, value in raw.items()})


def config_digest(config: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of a JSON-able configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def refuse_fields(raw: Any, known: Collection[str], what: str) -> None:
    """Refuse JSON that lacks or adds fields."""
    if not isinstance(raw, dict):
        raise StoreError(f"{what} is no record: {str(raw)[:40]!r}")
    wrong = [f"lacks {n}" for n in sorted({*known} - raw.keys())]
    wrong += [f"has unknown {n}" for n in sorted(raw.keys() - {*known})]
    if wrong:
        raise StoreError(f"{what} " + "; ".join(wrong))


def _of(hint: Any, value: Any, what: str) -> Any:
    kind, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return of_json(hint, value, what)  # type: ignore[arg-type]
    if kind in (tuple, list):
        return kind(_of(inner[0], part, what) for part in value)
    if kind is dict:
        return {name: _of(inner[1], part, what) for name, part in value.items()}
    return value
