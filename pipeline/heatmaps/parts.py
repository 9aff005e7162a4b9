"""Numbers of pictures, as they are kept while methods are held to masks: Parquet parts.

A part holds some pictures, each method under each protocol in a row group of its own, so that one
is read without the others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from storage import urls
from storage.images import BLOCK_BYTES

from .scores import Scores
from .tables import COUNTS, CURVES, SEGMENTATION

PICTURES = SEGMENTATION["pictures"]


def picture_rows(
    images: NDArray[np.int64],
    keys: Sequence[str],
    classes: Sequence[str],
    method: str,
    protocol: str,
    scored: Scores,
    deletion: NDArray[np.floating] | None = None,
    insertion: NDArray[np.floating] | None = None,
) -> pa.Table:
    """Numbers of a batch by one method under one protocol, as the table ``pictures`` has them.

    Parameters
    ----------
    images : (batch,) int64
        The pictures' numbers in their store.
    keys, classes : sequence of str
        Their keys there; the names of the classes whose maps were made.
    method : str
        Its row of the table of methods.
    deletion, insertion : (batch,), optional
        Areas under the curves; unknown unless given.
    """
    sides = torch.stack([scored.intersection_bc, scored.union_bc], 2).flatten(1)
    counts = torch.cat([scored.counted_b[:, None], scored.correct_b[:, None], sides], 1).cpu()
    curves = scored.curve_bcn.cpu().numpy().astype(np.int32)
    unknown = np.full(len(images), np.nan)
    figures = {
        "average_precision": scored.average_precision_b.cpu().numpy(),
        "deletion": unknown if deletion is None else deletion.astype(np.float64),
        "insertion": unknown if insertion is None else insertion.astype(np.float64),
    }
    return pa.table(
        {
            "image": images,
            "key": keys,
            "class": classes,
            "method": [method] * len(images),
            "protocol": [protocol] * len(images),
            **dict(zip(COUNTS, counts.T.numpy(), strict=True)),
            **{name: pa.array(values, from_pandas=True) for name, values in figures.items()},
            **{name: list(curves[:, side]) for side, name in enumerate(CURVES)},
        },
        PICTURES,
    )


def write_part(url: str, rows: Sequence[pa.Table]) -> None:
    """Write some pictures' rows as one part, whole or not at all.

    Parameters
    ----------
    url : str
        Of the file.
    rows : sequence of pyarrow.Table
        At least one, as ``picture_rows`` makes them, in any order.
    """
    table = pa.concat_tables(rows)
    pairs = table.select(["method", "protocol"]).group_by(["method", "protocol"]).aggregate([])
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, PICTURES) as writer:
        for pair in pairs.to_pylist():
            writer.write_table(table.filter(_of(**pair)))
    urls.put_bytes(url, buffer.getvalue())


def read_parts(
    parts: Sequence[str], method: str, protocol: str, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Columns of one method under one protocol, a part at a time: pictures with pixels to count."""
    wanted = _of(method, protocol) & (pc.field("counted") > 0)
    for part in parts:
        fs, path = urls.filesystem(part)
        with urls.naming(part, "read"), fs.open(path, "rb", block_size=BLOCK_BYTES) as file:
            yield pq.read_table(file, columns=list(columns), filters=wanted)


def _of(method: str, protocol: str) -> pc.Expression:
    return (pc.field("method") == method) & (pc.field("protocol") == protocol)
