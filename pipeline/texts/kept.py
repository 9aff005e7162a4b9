"""Embeddings that are not to be made again: those of a stopped run, and of texts met before."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage import urls
from storage.results import finished_results

# Beside what will be the result; gone when it is finished.
PARTS = "parts"
Rows = tuple[NDArray[np.int64], NDArray[np.float32]]


def write_part(place: str, at: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
    """Keep what a run has made so far, whole or not at all.

    Parameters
    ----------
    place : str
        Where the result will be, which is told by texts and model.
    at : (N,) int64
        Places of the texts in the pool.
    rows : (N, E) float32
    """
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    embeddings = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"at": at, "embedding": embeddings}), buffer)
    # No two parts of a run begin with the same text.
    urls.put_bytes(urls.join(place, PARTS, f"part-{at[0]:08d}.parquet"), buffer.getvalue())


def read_parts(place: str) -> Iterator[Rows]:
    """What stopped runs have kept."""
    for name in urls.list_names(urls.join(place, PARTS)):
        if name.endswith(".parquet"):
            part = pq.read_table(pa.BufferReader(urls.read_bytes(urls.join(place, PARTS, name))))
            at = part["at"].to_numpy()
            rows = part["embedding"].combine_chunks().flatten().to_numpy()
            yield at, rows.reshape(len(at), -1)


def remove_parts(place: str) -> None:
    """Once the result is there."""
    urls.remove(urls.join(place, PARTS))


def met_before(url: str, job: str, weights_digest: str, texts: Sequence[str]) -> Iterator[Rows]:
    """Rows of these texts from finished results of one model, each text once.

    Parameters
    ----------
    url : str
        The store.
    job : str
        Whose results hold embeddings.
    weights_digest : str
        Of the model.
    texts : sequence of str
    """
    wanted = {text: at for at, text in enumerate(texts)}
    for result in finished_results(url, job):
        if result.config.get("weights_digest") != weights_digest:
            continue
        there = {text: row for row, text in enumerate(result.table("texts")["text"].to_pylist())}
        if shared := sorted(wanted.keys() & there.keys(), key=wanted.__getitem__):
            rows = result.arrays("embeddings")["embedding"].values
            at = np.array([wanted.pop(text) for text in shared])
            yield at, rows[[there[text] for text in shared]]
