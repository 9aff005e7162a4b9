"""What the images of a store show: their classes, by a column of the image table, and groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.subsets import shard_rows
from storage.errors import FacetError
from storage.tables import StoreTables

from .classes import Classes

# Images whose labels are looked at before anything long begins.
LABELS_CHECKED = 1000


@dataclass(frozen=True, eq=False)
class Labels:
    """The images of a shard that are ok and in a subset.

    Attributes
    ----------
    images : (N,) int64
        Their numbers.
    classes : (N,) int64
    groups : list of str or None
        None where the image table has no groups.
    chosen : (images of the shard,) bool
        Which of the shard's images they are.
    """

    images: np.ndarray
    classes: np.ndarray
    groups: list[str] | None
    chosen: np.ndarray


def shard_labels(
    store: StoreTables, shard: int, where: str | None, column: str, classes: Classes
) -> Labels:
    """What a finished shard's images show.

    Parameters
    ----------
    where : str or None
        Which images.
    column : str
        Of the image table, which holds their labels.
    """
    rows, chosen = shard_rows(store, shard, where)
    groups = None
    if "group" in rows.column_names:
        groups = ["none" if g is None else str(g) for g in rows["group"].to_pylist()]
    truth = classes.truth(rows[column].to_pylist())
    return Labels(rows["index"].to_numpy(), truth, groups, chosen)


def refuse_labels(store: StoreTables, where: str | None, column: str, classes: Classes) -> None:
    """Refuse labels that are no class, as far as the first images tell."""
    check_labels(store, column)
    seen = 0
    for shard in sorted(store.done_shards()):
        seen += len(shard_labels(store, shard, where, column, classes).images)
        if seen >= LABELS_CHECKED:
            return


def check_labels(store: StoreTables, column: str) -> None:
    """Refuse a column that the image table does not have."""
    columns = store.images(0, 1).column_names
    if column not in columns:
        raise FacetError(
            f"the image table has no column {column!r} to take labels from; it has "
            f"{', '.join(columns)}"
        )
