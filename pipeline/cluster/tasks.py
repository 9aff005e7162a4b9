"""The one loop over tasks, on Ray or in this process; states that are merged on their way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from storage.errors import FacetError

from . import machines, pace
from .work import RETRIES, Needs

R = TypeVar("R")
T = TypeVar("T")
State = TypeVar("State")

# Results that are waited for at once, for each CPU; a task's results are kept until those before
# it have been taken.
PER_CPU = 2
# States merged by one task; and items under way at once, for each CPU.
FAN_IN, SCANNED_PER_CPU = 8, 8
ONE_CPU = Needs(1)


class _Done:
    """A task of this process, which has ended."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Tasks:
    """Tasks that have been started; what is still waited for is cancelled with the block, and what
    has been given to another task ends by itself.

    In this process a task is done as it is started.

    Parameters
    ----------
    needs : Needs
        What one of them takes.
    """

    def __init__(self, needs: Needs = ONE_CPU) -> None:
        self._needs, self._under_way = needs, set[Any]()
        self._remote: dict[Callable[..., Any], Any] = {}

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._under_way:
            import ray

            for ref in self._under_way:
                ray.cancel(ref)

    def share(self, value: T) -> T:
        """A value for many tasks, sent once to each node."""
        if machines.here():
            return value
        import ray

        return ray.put(value)  # type: ignore[return-value]

    def start(self, function: Callable[..., Any], *given: Any) -> Any:
        """Start a task; what it gives back can be given to further ones, or to `result`."""
        if machines.here():
            return _Done(function(*(one.value if isinstance(one, _Done) else one for one in given)))
        import ray

        if function not in self._remote:
            options = {"max_retries": RETRIES, **self._needs.options()}
            self._remote[function] = ray.remote(function).options(**options)
        ref = self._remote[function].remote(*given)
        # What another task takes is let go of as soon as that has it.
        self._under_way -= {one for one in given if isinstance(one, ray.ObjectRef)}
        self._under_way.add(ref)
        return ref

    def ended(self, started: Iterable[Any], timeout: float | None = None) -> list[Any]:
        """Those of some tasks that have ended, after so many seconds, or once one has."""
        if machines.here() or not (waiting := list(started)):
            return list(started)
        import ray

        return list(ray.wait(waiting, num_returns=1, timeout=timeout)[0])

    def result(self, started: Any) -> Any:
        """What a task gives back; its failure in words that a user can act upon."""
        if machines.here():
            return started.value
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

        self._under_way.discard(started)
        try:
            return ray.get(started)
        except RayTaskError as error:
            # The user needs the message, not the stack of a worker.
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except (WorkerCrashedError, OutOfMemoryError) as error:
            raise FacetError(
                f"a worker died again and again: {error}\nIt is probably out of memory: take less "
                "at a time. What is done is kept; the same command goes on from there."
            ) from error
        except RayError as error:
            raise machines.died(error) from error


def each(
    function: Callable[..., R], items: Iterable[Any], *shared: Any, needs: Needs = ONE_CPU
) -> Iterator[R]:
    """``function(*shared, item)`` of every item, in their order, as `map` does it.

    Parameters
    ----------
    function : callable
    items : iterable
    shared
        The same for all; sent once to each node.
    needs : Needs
        What one call takes.
    """
    with Tasks(needs) as tasks:
        given = [tasks.share(value) for value in shared]
        window, pending = PER_CPU * machines.cpus(), deque[Any]()
        for item in items:
            pending.append(tasks.start(function, *given, item))
            if len(pending) >= window or machines.here():
                yield tasks.result(pending.popleft())
        while pending:
            yield tasks.result(pending.popleft())


def listed(
    say: Callable[[str], None], function: Callable[..., R], items: Sequence[Any]
) -> Iterator[R]:
    """`each` of the pieces of a source, once it is settled where they are read."""
    machines.settle(pace.of_pieces(len(items)), f"{len(items):,} files to list", say, more=True)
    return each(function, items)


def scan(
    function: Callable[..., State],
    items: Sequence[Any],
    merge: Callable[[Sequence[State]], State],
    *shared: Any,
) -> Iterator[tuple[int, State]]:
    """``function(*shared, item)`` of every item, merged in a tree where they were made.

    Items are taken in waves, so that no more states are held at once than there is use for.

    Parameters
    ----------
    function : callable
        Gives the state of an item, such as a shard.
    items : sequence
    merge : callable
        Makes one state of up to ``FAN_IN`` of them, in their order.
    shared
        The same for all; sent once to each node.

    Yields
    ------
    count : int
        Items done so far.
    state : State
        Of this wave.
    """
    # This process does one item after the other, however many CPUs the machine has.
    wave = SCANNED_PER_CPU * (1 if machines.here() else machines.cpus())
    with Tasks() as tasks:
        given = [tasks.share(value) for value in shared]
        for first in range(0, len(items), wave):
            taken = items[first : first + wave]
            level = [tasks.start(function, *given, item) for item in taken]
            while len(level) > 1:
                level = [
                    tasks.start(_merged, merge, *level[at : at + FAN_IN])
                    for at in range(0, len(level), FAN_IN)
                ]
            yield first + len(taken), tasks.result(level[0])


def _merged(merge: Callable[[Sequence[State]], State], *states: State) -> State:
    return merge(states)
