"""What the JSON and Parquet of a store tell of it, without any library for arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from . import images, ledger, urls, views
from .metadata import Metadata


class StoreTables:
    """A store's identity, images and ledger.

    Attributes
    ----------
    url : str
        Where what is found of it is kept, and by what it is named.
    data : str
        Where its images, contributions and ledger are: another place where ``url`` is a view.
    meta : Metadata
    """

    def __init__(self, url: str, data: str, meta: Metadata) -> None:
        self.url, self.data, self.meta = url, data, meta

    def images(self, start: int = 0, stop: int | None = None) -> pa.Table:
        """The image table, or its rows ``start … stop-1``."""
        return images.read_rows(self.data, start, self.meta.images if stop is None else stop)

    def some_images(self, numbers: np.ndarray) -> pa.Table:
        """Rows of the image table by their numbers, in its order, each once."""
        return images.read_some(self.data, numbers)

    def ledger(self) -> pa.Table:
        """What became of each image of the finished shards."""
        return ledger.read_ledger(self.data)

    def done_shards(self) -> set[int]:
        """Numbers of the finished shards."""
        return ledger.done_shards(self.data)


def open_tables(url: str) -> StoreTables:
    """Look at a store, or a view of one.

    Raises
    ------
    StoreError
        If there is no store, or one whose creation was never finished.
    """
    url = urls.absolute(url)
    return StoreTables(url, *views.find(url))
