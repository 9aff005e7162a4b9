"""Which heads carry a label, for whoever searches in them, maps them or mends them."""

from __future__ import annotations

from pipeline.heads.choices import Head
from storage.errors import FacetError
from storage.results import finished_results, latest_result
from storage.store import Store

JOB = "label"


def heads_with(store: Store, property: str) -> tuple[Head, ...]:
    """Heads that carry a label, of the labels that were asked for last, in the store's order.

    Parameters
    ----------
    store : Store
    property : str
        The label; capitals make no difference.

    Raises
    ------
    FacetError
        If the store has no labels, or none of its heads this one.
    """
    # Labels of a store that is only read are as good as a view's own.
    place = store.url if finished_results(store.url, JOB) else store.data
    result = latest_result(place, JOB)
    rows = result.table("labels").to_pylist()
    wanted = property.strip().casefold()
    found = sorted((r["layer"], r["head"]) for r in rows if (r["label"] or "").casefold() == wanted)
    if not wanted or not found:
        labels = sorted({r["label"] for r in rows if r["label"] is not None})
        listed = ", ".join(labels) if labels else "none: no head was given a label"
        raise FacetError(f"no head carries the label {property!r}; the labels there are: {listed}")
    return tuple(found)
