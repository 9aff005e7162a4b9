"""What views derive, kept while there is room for it; the oldest goes first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

ROOM = 512 << 20  # bytes

Value = TypeVar("Value")


class Memory:
    """Values by key, made once also where several ask at the same time.

    Parameters
    ----------
    room : int
        Bytes that are kept, about; a value larger than a half of it is not.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room, self.held = room, 0
        self._kept: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._making: dict[object, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], Value]) -> Value:
        """The value of a key; whoever asks while it is being made waits for it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            waited = self._making.get(key)
            if waited is None:
                mine: Future[Any] = Future()
                self._making[key] = mine
        if waited is not None:
            return waited.result()
        try:
            value = make()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(value)
            self._keep(key, value)
            return value
        finally:
            with self._lock:
                del self._making[key]

    def _keep(self, key: object, value: object) -> None:
        size = size_of(value)
        if 2 * size > self.room:
            return
        with self._lock:
            self._kept[key] = (value, size)
            self.held += size
            while self.held > self.room:
                self.held -= self._kept.popitem(last=False)[1][1]


def size_of(value: object) -> int:
    """Bytes of a value, about: what arrays and tables say of themselves, all parts counted."""
    if (bytes_ := getattr(value, "nbytes", None)) is not None:
        return int(bytes_)
    if hasattr(value, "memory_usage"):
        return int(value.memory_usage(deep=True).sum())
    if isinstance(value, Mapping):
        return sum(size_of(k) + size_of(v) for k, v in value.items()) + sys.getsizeof(value)
    if isinstance(value, list | tuple | set | frozenset):
        return sum(map(size_of, value)) + sys.getsizeof(value)
    parts = getattr(value, "__dict__", None)
    return sys.getsizeof(value) + (size_of(parts) if parts else 0)
