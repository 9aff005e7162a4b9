"""Images read again: whether they are still what the ledger says that they were.

Free of torch, so that tasks that only read start in a moment and stay small.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa
from PIL import Image

from storage import ledger, urls
from storage.store import Store

from .decode import read_bytes, to_image
from .errors import BadImage, SourceUnavailable
from .read import ImageReader

OTHER = "its bytes are others"
Again = tuple[str | None, str | None]


def digests(rows: pa.Table) -> list[Again]:
    """Read images again; what ``Store.validate`` takes as ``sources``.

    Parameters
    ----------
    rows : pyarrow.Table
        Rows of the image table (``uri``, ``offset``, ``length``).

    Returns
    -------
    list of (str or None, str or None)
        Each image's sha256, as the ledger keeps it; or None and the reason why it cannot be read.
    """
    found: list[Again] = []
    with ImageReader() as reader:
        for row in rows.select(["uri", "offset", "length"]).to_pylist():
            try:
                data = reader.read(row["uri"], row["offset"], row["length"])
                found.append((hashlib.sha256(data).hexdigest(), None))
            except (BadImage, SourceUnavailable) as error:
                found.append((None, str(error)))
    return found


def load_again(store: Store, index: int) -> Image.Image:
    """The RGB image that a store has at ``index``, if it is what it was.

    Raises
    ------
    BadImage
        If its bytes are others than those that were extracted, or cannot be read or decoded.
    """
    row = store.images(index, index + 1).to_pylist()[0]
    data = read_bytes(row)
    shard, at = divmod(index, store.meta.shard_size)
    if urls.exists(ledger.part_url(store.data, shard)):
        was = ledger.read_part(store.data, shard)["sha256"][at].as_py()
        if was is not None and hashlib.sha256(data).hexdigest() != was:
            raise BadImage(OTHER)
    return to_image(row, data)
