"""Questions to models that answer elsewhere: several under way at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """``function(item)`` of every item, in their order, from threads.

    Where it fails, or whoever reads stops, what has not begun is not.

    Parameters
    ----------
    function : callable
    items : iterable
    at_once : int
        Calls under way at a time.
    """
    with ThreadPoolExecutor(at_once) as threads:
        yield from threads.map(function, items)  # which cancels the rest as it ends
