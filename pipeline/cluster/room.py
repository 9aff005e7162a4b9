"""Refusing what no disk and no machine can hold, before any work is done for it."""

from __future__ import annotations

from humanize import naturalsize

from storage import urls
from storage.errors import FacetError

from . import machines


def refuse_memory(need: int, remedy: str, *, what: str = "an actor") -> None:
    """Refuse workers that no node of the cluster can hold.

    Parameters
    ----------
    need : int
        Bytes of one.
    remedy : str
        What would lessen it.
    what : str
        Who needs it.
    """
    memory = machines.node_memory()
    if need > memory:
        raise FacetError(
            f"{what} will need {naturalsize(need)} and the largest node has "
            f"{naturalsize(memory)}: {remedy}"
        )


def refuse_room(url: str, need: int, remedy: str) -> None:
    """Refuse a store that the disk cannot hold (compression is not counted on).

    Parameters
    ----------
    url : str
    need : int
        Bytes still to be written.
    remedy : str
        What would lessen it.
    """
    free = urls.free_bytes(url)
    if free is not None and need > free:
        raise FacetError(
            f"the store will need up to {naturalsize(need)} more and {url} has "
            f"{naturalsize(free)} free: {remedy}"
        )
