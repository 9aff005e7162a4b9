"""What jobs about neurons share: which MLP layers are meant, and where their results stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pipeline.identity import over
from storage.errors import Remedy, StoreError
from storage.results import Result, finished_results
from storage.store import Store

JOB = "second_order"


def latest_effects(store: Store, mlp_layers: Sequence[int]) -> Result:
    """The result of the second-order job that was asked for last, of those with all these layers.

    Raises
    ------
    StoreError
        If there is none; its remedy says how to get one.
    """
    wanted = set(mlp_layers)
    for result in reversed(finished_results(store.url, JOB)):
        if wanted <= set(result.provenance["mlp_layers"]):
            return result
    raise StoreError(
        f"no second-order effects of MLP layers {_listed(wanted)} in {store.url}",
        Remedy.first(JOB, store.url, mlp_layers=_listed(wanted)),
    )


def second_order_result(
    store: Store, mlp_layers: Sequence[int], finished: dict[str, Any] | None = None
) -> Result:
    """`latest_effects`, which must be over the images that are finished now.

    Parameters
    ----------
    store : Store
    mlp_layers : sequence of int
    finished : dict, optional
        ``over(store)``, where it is known: it reads every part of the ledger.

    Raises
    ------
    StoreError
        If there is none, or it is over others; its remedy says how to get one.
    """
    result = latest_effects(store, mlp_layers)
    if result.provenance["over"] != (over(store) if finished is None else finished):
        raise StoreError(
            f"the second-order effects of MLP layers {_listed(mlp_layers)} in {store.url} are over "
            f"{result.provenance['images']:,} images, and other or more images are finished now",
            Remedy.anew(JOB, store.url, mlp_layers=_listed(mlp_layers)),
        )
    return result


def _listed(mlp_layers: Collection[int]) -> str:
    return ",".join(map(str, sorted(mlp_layers)))
