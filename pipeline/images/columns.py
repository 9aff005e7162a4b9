"""Columns of Parquet files, in whichever of Arrow's types their writer has put them."""

from __future__ import annotations

import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether the values are text: plain, large, as views, or a dictionary of these."""
    kind = values_type(kind)
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Whether the values are bytes: plain, large, of one size, as views, or a dictionary."""
    kind = values_type(kind)
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def values_type(kind: pa.DataType) -> pa.DataType:
    """What a dictionary, or an extension type such as ``arrow.json``, is about."""
    if isinstance(kind, pa.UuidType):
        return pa.string()  # kept as bytes, written and meant as text
    if isinstance(kind, pa.BaseExtensionType):
        return values_type(kind.storage_type)
    return values_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def plain(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """The same values with neither dictionaries nor extension types, text as ``string``."""
    kind = column.type
    if isinstance(kind, pa.UuidType):
        values = (None if v is None else str(v) for v in column.to_pylist())
        return pa.array(values, pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return plain(column.cast(kind.storage_type))
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    return column.cast(pa.string()) if is_text(kind) else column
