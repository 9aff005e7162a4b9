"""What each head is about where the truth is known: analysis of variance against attributes.

For an attribute with values v, the share of a head's variance that it explains is the trace of
the covariance between the values' means over the trace of the whole covariance, both of the
contributions in the joint space on the published scale. Means by value are reductions like any
other; no contribution is expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.cluster.tasks import scan
from pipeline.microworld.words import microworld_attributes
from pipeline.microworld.world import ATTRIBUTES
from pipeline.stats.moments import chunk
from pipeline.stats.reductions import States, image_scales, merge
from pipeline.subsets import check_where, chosen_rows, shard_rows
from pipeline.telling import SILENT, Teller
from storage import urls
from storage.layout import CONTRIBUTIONS
from storage.reductions import Reductions
from storage.results import Result
from storage.store import Store, open_store

TOP = 5


def known_attributes(store: Store) -> tuple[str, ...]:
    """The embedded world's attributes, if the image table has a column for every one."""
    columns = store.images(0, 1).column_names
    return tuple(ATTRIBUTES) if set(ATTRIBUTES) <= set(columns) else ()


@dataclass(frozen=True, eq=False)
class KnownRoles:
    """What the heads of a store are about, where the truth is known.

    Attributes
    ----------
    table : DataFrame
        See ``role_table``.
    shares : (L, H, attributes) float
        See ``attribute_shares``.
    attributes : tuple of str
    """

    table: pd.DataFrame
    shares: np.ndarray
    attributes: tuple[str, ...]

    def arrays(self) -> xr.Dataset:
        """What a result keeps of it beside the table."""
        dims = ("layer", "head", "attribute")
        return xr.Dataset(
            {"share": (dims, self.shares)}, attrs={"attributes": list(self.attributes)}
        )

    @classmethod
    def of(cls, result: Result) -> KnownRoles | None:
        """What a result keeps; None where the truth is not known."""
        if not result.provenance["truth"]:
            return None
        shares = result.arrays("shares")
        attributes = tuple(shares.attrs["attributes"])
        return cls(result.table("roles").to_pandas(), shares["share"].values, attributes)


def known_roles(
    store: Store, reductions: Reductions, descriptions: pd.DataFrame, teller: Teller = SILENT
) -> KnownRoles | None:
    """Which attribute every described head follows; None where attributes are not known.

    Parameters
    ----------
    store : Store
    reductions : Reductions
        Of the images that the heads were described by.
    descriptions : DataFrame
        TextSpan's result: layer, head, rank, text.
    teller : Teller
    """
    attributes = known_attributes(store)
    if not attributes or descriptions.empty:
        return None
    with teller.bar("known truth: shards", len(reductions.facts.counted("heads"))) as move:
        shares = attribute_shares(store, reductions, attributes, report=move)
    table = role_table(shares, head_variances(reductions), attributes, descriptions)
    return KnownRoles(table, shares, attributes)


def attribute_shares(
    store: Store,
    reductions: Reductions,
    attributes: Sequence[str],
    *,
    report: Callable[[int], None] = lambda shards: None,
) -> np.ndarray:
    """Share of each head's variance that every attribute explains.

    Parameters
    ----------
    store : Store
    reductions : Reductions
        Of the same subset; its heads' mean and covariance are the whole's.
    attributes : sequence of str
        Columns of the image table; their values are classes.

    Returns
    -------
    (L, H, attributes) float64
        0 for a head without variance. An attribute of c values explains about (c − 1) / n by
        chance.
    """
    where = reductions.facts.where
    check_where(store, where)
    shards = sorted(reductions.facts.counted("heads"))
    states: States = {}
    for count, wave in scan(value_states, shards, merge, store.url, where, tuple(attributes)):
        states = merge([states, wave])
        report(count)
    head_map = store.model()["head_map"].values.astype(np.float64)
    gram = head_map @ head_map.swapaxes(-1, -2)
    total = head_variances(reductions)
    mean = reductions.array("heads_mean").values
    shares = np.zeros((*total.shape, len(attributes)))
    for name, state in states.items():
        away = state.mean - mean
        between = np.einsum("lhk,lhkj,lhj->lh", away, gram, away) * state.n / reductions.count()
        shares[..., attributes.index(name.partition("=")[0])] += between
    return shares / np.where(total > 0, total, np.inf)[..., None]


def head_variances(reductions: Reductions) -> np.ndarray:
    """Variance of every head's contributions in the joint space, (L, H) float64."""
    return np.asarray(reductions.array("heads_pca_variance").sum("head_component"))


def value_states(url: str, where: str | None, attributes: Sequence[str], shard: int) -> States:
    """Means of the heads of one shard's images, by value of every attribute."""
    store = open_store(url)
    rows, chosen = shard_rows(store, shard, where)
    if not chosen.any():
        return {}
    start, stop = store.meta.rows(shard)
    data = urls.open_group(urls.join(store.data, CONTRIBUTIONS), mode="r")
    ((_, read),) = chosen_rows(data, ["heads"], start, chosen)
    heads = read["heads"]
    scale = image_scales(data, start, stop)[1][chosen]
    states: States = {}
    for attribute in attributes:
        values = np.array([str(v) for v in rows[attribute].to_pylist()])
        for value in np.unique(values):
            of = values == value
            states[f"{attribute}={value}"] = chunk(heads[of], None, scale[of], covariance=False)
    return states


def role_table(
    shares: np.ndarray,
    variance: np.ndarray,
    attributes: Sequence[str],
    descriptions: pd.DataFrame,
) -> pd.DataFrame:
    """For every described head, the attribute that dominates it and what TextSpan says of it.

    Parameters
    ----------
    shares : (L, H, attributes) float
    variance : (L, H) float
        Variance of each head's contributions.
    attributes : sequence of str
    descriptions : DataFrame
        TextSpan's result: layer, head, rank, text.

    Returns
    -------
    DataFrame
        ``layer``, ``head``, ``attribute``, its ``share``, ``variance``, and ``texts_about``: how
        many of the first five texts name the attribute.
    """
    rows = []
    heads = descriptions[["layer", "head"]].drop_duplicates().to_numpy().tolist()
    for layer, head in heads:
        found = descriptions[(descriptions["layer"] == layer) & (descriptions["head"] == head)]
        best = int(shares[layer, head].argmax())
        first = found.sort_values("rank")["text"][:TOP]
        rows.append(
            {
                "layer": layer,
                "head": head,
                "attribute": attributes[best],
                "share": float(shares[layer, head, best]),
                "variance": float(variance[layer, head]),
                "texts_about": sum(attributes[best] in microworld_attributes(t) for t in first),
            }
        )
    return pd.DataFrame(rows)
