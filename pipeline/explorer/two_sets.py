"""Two sets of images in words and heads: comparisons that are kept, and any that cost little.

What a comparison takes are the moments of both sets (``heads/two_sets``). Those that are kept are
taken from there; those of a store that is small enough are gathered while one waits; of any other
the command is told that gathers and keeps them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.columns import column, names
from pipeline.explorer.library import Opened
from pipeline.explorer.pools import PoolTexts, pool_of
from pipeline.explorer.spaces import labels_of
from pipeline.heads.answers import Compared, compared_sets, told_apart
from pipeline.heads.two_sets import compare, compared, refuse_same
from pipeline.stats.reductions import chosen_states, merge, moments
from pipeline.subsets import SubsetError, check_where, shard_rows
from storage.errors import FacetError
from storage.reductions import Facts, Reductions, as_dataset, find_reductions
from storage.results import Result

# Of a store's contributions, which are read while one waits: 3,000 images of ViT-B/32.
CHEAP = 128 << 20
# Texts of each part, and images of each set that are shown.
TEXTS, PICTURED = 5, 8
# Columns whose values are proposed as conditions have no more values than this.
FEW, PROPOSED = 12, 80
_ELIDED = "…"


@dataclass(frozen=True)
class Kept:
    """A comparison that is kept."""

    a: str
    b: str


@dataclass(frozen=True)
class TwoSets:
    """Two sets of images side by side.

    Attributes
    ----------
    a, b : str
        The conditions.
    kept : tuple of Kept
    proposed : tuple of str
        Conditions that may be chosen.
    found : Compared or None
    how : str
        Where it is from, in words.
    pool : str
        What the texts are called.
    problem : str
        Why there is nothing to be seen yet; empty otherwise.
    command : str
        What finds it.
    images_a, images_b : tuple of int
        The first images of each set.
    labels : dict of str to str
        Labels of heads, by names such as ``3.0``.
    """

    a: str
    b: str
    kept: tuple[Kept, ...]
    proposed: tuple[str, ...]
    found: Compared | None = None
    how: str = ""
    pool: str = ""
    problem: str = ""
    command: str = ""
    images_a: tuple[int, ...] = ()
    images_b: tuple[int, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


def two_sets(here: Opened, a: str = "", b: str = "") -> TwoSets:
    """Two sets of images, or the comparison that was asked for last.

    Parameters
    ----------
    here : Opened
    a, b : str
        Conditions.

    Raises
    ------
    FacetError
        If a condition cannot be read or matches nothing, or both pick the same images.
    """
    results = here.results("compare")
    a, b = a.strip(), b.strip()
    if not a and not b and results:
        a, b = results[0].config["a"], results[0].config["b"]
    kept = tuple(Kept(r.config["a"], r.config["b"]) for r in results)
    proposed = here.cached("conditions", lambda: _proposed(here))
    if not a or not b:
        problem = "say which images are in the other set" if a or b else ""
        return TwoSets(a, b, kept, proposed, problem=problem)
    own = next((r for r in results if (r.config["a"], r.config["b"]) == (a, b)), None)
    if own is not None:
        pool = pool_of(here, own)
        return TwoSets(
            a, b, kept, proposed, compared_sets(own, TEXTS), "kept with the store's results",
            "" if pool is None else pool.source, images_a=_first(here, a), images_b=_first(here, b),
            labels=_labels(here),
        )  # fmt: skip
    if a.split() == b.split():
        raise FacetError("`a` and `b` are the same: there is no difference to be told")
    for setting, where in (("a", a), ("b", b)):
        check_where(here.store, where, setting)
    known = _pool(here)
    if known is None:
        return TwoSets(
            a, b, kept, proposed, problem="no texts of the store's model are kept to tell sets by",
            command=_command(here, a, b),
        )  # fmt: skip
    sets = [_moments(here, where) for where in (a, b)]
    if sets[0] is None or sets[1] is None:
        return TwoSets(
            a, b, kept, proposed,
            problem="the means of both sets are not kept, and take longer than one would wait",
            command=_command(here, a, b),
        )  # fmt: skip
    both = sets[0], sets[1]
    found = here.cached(("two sets", a, b), lambda: _compare(here, a, b, both, known))
    return TwoSets(
        a, b, kept, proposed, found, "found now, and not kept", known.source,
        images_a=_first(here, a), images_b=_first(here, b), labels=_labels(here),
    )  # fmt: skip


def _labels(here: Opened) -> dict[str, str]:
    return {f"{layer}.{head}": label for (layer, head), label in labels_of(here).items()}


def _compare(
    here: Opened, a: str, b: str, sets: tuple[Reductions, Reductions], pool: PoolTexts
) -> Compared:
    counts = sets[0].count("embedding"), sets[1].count("embedding")
    pairs = zip(_chosen(here, a), _chosen(here, b), strict=True)
    both = sum(int((x & y).sum()) for (_, x), (_, y) in pairs)
    refuse_same(counts, both)
    layers = range(here.meta.layers)
    found = compare(here.store, sets, layers, pool.embeddings, pool.texts, TEXTS)
    return told_apart(a, b, (*counts, both), found.shares, found.parts, found.texts, TEXTS)


def _moments(here: Opened, where: str) -> Reductions | None:
    """Moments of a subset, kept or gathered; None where neither is to be had at once."""
    store = here.store
    components = compared(store)
    kept = find_reductions(store.url, store.meta, where)
    done = store.done_shards()
    if kept is not None and all(kept.facts.counted(c) == done for c in components):
        return kept
    row = sum(store.arrays[name].bytes_per_row for name in components)
    if store.meta.images * row > CHEAP:
        return None

    def gather() -> Reductions:
        chosen = _chosen(here, where)
        states = merge(chosen_states(store, shard, mine, components) for shard, mine in chosen)
        if not max((state.n for state in states.values()), default=0):
            raise SubsetError(f"{where!r} matches no image that is ok")
        data = as_dataset(store.meta, moments(states))
        return Reductions(data, Facts(where, store.meta.digest()), store.url, store.meta)

    return here.cached(("moments", where), gather)


def _chosen(here: Opened, where: str) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Which images of each finished shard are ok and fit."""
    for shard in sorted(here.store.done_shards()):
        yield shard, shard_rows(here.store, shard, where)[1]


def _first(here: Opened, where: str) -> tuple[int, ...]:
    """The first images of a set."""

    def find() -> tuple[int, ...]:
        found: list[int] = []
        for shard, chosen in _chosen(here, where):
            start = here.meta.rows(shard)[0]
            found += (start + np.flatnonzero(chosen)).tolist()
            if len(found) >= PICTURED:
                break
        return tuple(found[:PICTURED])

    return here.cached(("first", where), find)


def _pool(here: Opened) -> PoolTexts | None:
    """The texts that were asked for last."""
    results: list[Result] = [*here.results("compare"), *here.results("textspan")]
    pools = (pool_of(here, result) for result in results)
    return next((pool for pool in pools if pool is not None), None)


def _proposed(here: Opened) -> tuple[str, ...]:
    """Conditions on columns with few values."""
    found: list[str] = []
    for name in names(here) if here.meta.images <= 1_000_000 else ():
        values = column(here, name).values
        if name.isidentifier() and 2 <= len(values) <= FEW:
            found += [f"{name} == {value!r}" for value in values]
    return tuple(found[:PROPOSED])


def _command(here: Opened, a: str, b: str) -> str:
    """The command that gathers and keeps all of it."""
    told = here.hint("compare")
    for where in (a, b):
        told = told.replace(_ELIDED, shlex.quote(where), 1)
    return told
