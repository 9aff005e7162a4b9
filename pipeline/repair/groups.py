"""Groups of images, and the halves that gains are found on and told of.

The half of an image is a matter of its key alone, so that it stays the same in a store that grows,
and whatever else is chosen of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.subsets import shard_rows
from pipeline.texts.classes import Classes
from storage.errors import FacetError
from storage.tables import StoreTables

Half = Literal["training", "held-out"]
# A class, by its number, and the value of the other column.
Group = tuple[int, str]
# The value of images that have none.
NO_VALUE = "none"
_BITS = 63


@dataclass(frozen=True)
class Asked:
    """Which images, and what makes a group of them.

    Attributes
    ----------
    where : str or None
        By columns of the image table.
    label_column : str
        Says what an image shows.
    column : str
        With the class, says which group an image is of.
    classes : Classes
    """

    where: str | None
    label_column: str
    column: str
    classes: Classes


@dataclass(frozen=True, eq=False)
class Members:
    """The images of a shard that are ok, in a subset, and of one half.

    Attributes
    ----------
    classes : (N,) int64
    groups : list of Group
    places : (N,) float64
        From 0 to 1, by the key: the images below a place are a sample that does not change.
    chosen : (images of the shard,) bool
        Which of the shard's images they are.
    """

    classes: np.ndarray
    groups: list[Group]
    places: np.ndarray
    chosen: np.ndarray

    def keep(self, kept: np.ndarray) -> Members:
        """Some of them."""
        chosen = np.zeros_like(self.chosen)
        chosen[np.flatnonzero(self.chosen)[kept]] = True
        groups = [group for group, keep in zip(self.groups, kept, strict=True) if keep]
        return Members(self.classes[kept], groups, self.places[kept], chosen)


def drawn(keys: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn for images by their keys.

    Returns
    -------
    held_out : (N,) bool
        The first bit of the key's sha256.
    places : (N,) float64
        The next 63, as a fraction.
    """
    first = [hashlib.sha256(key.encode()).digest()[:8] for key in keys]
    bits = np.frombuffer(b"".join(first), ">u8").astype(np.uint64)
    rest = bits & np.uint64(2**_BITS - 1)
    return bits >> np.uint64(_BITS) == 1, rest.astype(np.float64) / 2.0**_BITS


def members(store: StoreTables, shard: int, asked: Asked, half: Half) -> Members:
    """The images of one half; labels of the other are not looked at."""
    rows, chosen = shard_rows(store, shard, asked.where)
    held_out, places = drawn(rows["key"].to_pylist())
    mine = held_out if half == "held-out" else ~held_out
    rows = rows.filter(pa.array(mine))
    chosen[np.flatnonzero(chosen)[~mine]] = False
    classes = asked.classes.truth(rows[asked.label_column].to_pylist())
    values = [NO_VALUE if v is None else str(v) for v in rows[asked.column].to_pylist()]
    groups = list(zip(classes.tolist(), values, strict=True))
    return Members(classes, groups, places[mine], chosen)


def count_groups(
    store: StoreTables, shards: Sequence[int], asked: Asked, half: Half
) -> Counter[Group]:
    """How many images of a half are of each group."""
    found: Counter[Group] = Counter()
    for shard in shards:
        found.update(members(store, shard, asked, half).groups)
    return found


def namer(groups: Iterable[Group], classes: Classes) -> Callable[[Group], str]:
    """Names of the groups of a set, all alike: with the class unless every value says it."""
    classes_of = Counter(value for _, value in set(groups))
    crossed = any(count > 1 for count in classes_of.values())
    return lambda group: f"{classes.names[group[0]]}, {group[1]}" if crossed else group[1]


def refuse_groups(
    training: Mapping[Group, int], held_out: Mapping[Group, int], asked: Asked, search: bool
) -> None:
    """Refuse groups that say nothing.

    Raises
    ------
    FacetError
        If fewer than two groups have held-out images or, where gains are to be found, training
        ones.
    """
    halves = {"held-out": held_out, **({"training": training} if search else {})}
    for half, counts in halves.items():
        if len(counts) < 2:
            listed = "; ".join(
                f"{asked.classes.names[c]} with {asked.column} {value}: "
                f"{training.get((c, value), 0)} training, {held_out.get((c, value), 0)} held-out"
                for c, value in sorted(set(training) | set(held_out))
            )
            raise FacetError(
                f"`groups` {asked.column}: {len(counts)} of the groups of class and "
                f"{asked.column} have {half} images, and the worst of several is looked for "
                f"({listed or 'no image is chosen'}): name another column, or take more images"
            )


def check_column(store: StoreTables, column: str) -> None:
    """Refuse a column that the image table does not have."""
    columns = store.images(0, 1).column_names
    if column not in columns:
        raise FacetError(
            f"`groups` {column}: the image table has no such column; it has {', '.join(columns)}"
        )
