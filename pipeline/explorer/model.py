"""The models of stores, in one process beside the server: loaded at the first need, and kept.

The server itself runs no model and imports no torch. What a view wants of one is a function of a
module, ``f(loaded, *arguments)``, which is called in the other process and returns plain data.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from storage.errors import FacetError
from storage.rosetta import find_setup
from storage.store import open_store

if TYPE_CHECKING:
    from pipeline.explorer.library import Opened, OpenedUnits
    from pipeline.models import VisionModel
    from pipeline.rosetta.replay import Mined
    from storage.store import Store

# Seconds that a page waits for a model to be loaded before it says so instead.
PATIENCE = 3.0
# Seconds after which a question is given up, its wait for other questions included.
LIMIT = 120.0
# Questions that wait at once: each holds one of the server's threads.
WAITING = 12
# Answers to long questions that are kept for whoever asks again.
ANSWERS = 32


class NotYet(FacetError):
    """The model is being loaded, or is busy: the same question can be answered a little later."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a function is given in the model's process.

    Attributes
    ----------
    store : Store
        Read only.
    model : VisionModel
        Of any other store with the same model, the same object.
    """

    store: Store
    model: VisionModel


@dataclass(frozen=True)
class State:
    """How far a store's model is.

    Attributes
    ----------
    ready, loading : bool
    words : str
        The same, for people.
    """

    ready: bool
    loading: bool
    words: str

    def __str__(self) -> str:
        return self.words


class ModelProcess:
    """Asks models in a process of their own, one question at a time; any thread may ask.

    Parameters
    ----------
    patience, limit : float
        Seconds: see ``PATIENCE`` and ``LIMIT``.
    """

    def __init__(self, patience: float = PATIENCE, limit: float = LIMIT) -> None:
        self.patience, self.limit = patience, limit
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(WAITING)
        self._pool: ProcessPoolExecutor | None = None
        # Open as long as the process may live: it ends at once where this is closed, by whom ever.
        self._alive: Connection | None = None
        self._loads: dict[str, tuple[float, Future[None]]] = {}
        self._long: dict[object, tuple[float, Future[Any]]] = {}

    def ask(
        self, opened: Opened | OpenedUnits, function: Callable[..., Any], *arguments: object
    ) -> Any:
        """What a function says of a store's model, which is loaded if it is not.

        Parameters
        ----------
        opened : Opened or OpenedUnits
            The store, or the units that models share: ``loaded`` is then ``rosetta.replay.Mined``.
        function : callable
            ``f(loaded, *arguments)``, of a module; arguments and what it returns can be pickled.
            It may raise a ``FacetError``.

        Raises
        ------
        NotYet
            If the model is still being loaded, too many ask at once, or its process ended.
        FacetError
            If the model cannot be loaded, or it takes longer than ``limit``.
        """
        if not self._waiting.acquire(blocking=False):
            raise NotYet("too many questions wait for the model: ask again in a moment")
        try:
            return self._asked(self._started(), opened, function, arguments)
        finally:
            self._waiting.release()

    def _asked(
        self,
        pool: ProcessPoolExecutor,
        opened: Opened | OpenedUnits,
        function: Callable[..., Any],
        arguments: tuple[object, ...],
    ) -> Any:
        try:
            since, load = self._load(pool, opened)
            try:
                load.result(self.patience)
            except TimeoutError:
                raise NotYet(_being_loaded(opened, since)) from None
            asked = pool.submit(_do, opened.url, self.limit, function, arguments)
            try:
                return asked.result(self.limit)
            except TimeoutError:
                asked.cancel()
                raise _too_long(self.limit) from None
        except BrokenProcessPool:
            self._forget(pool)
            raise NotYet(
                "the process that runs the model has ended, as it does where memory is short: it "
                "is started again when it is asked again"
            ) from None

    def ask_long(
        self,
        opened: Opened | OpenedUnits,
        what: str,
        function: Callable[..., Any],
        *arguments: object,
    ) -> Any:
        """As `ask`, of what takes longer than anyone waits: the same question goes on with it.

        Parameters
        ----------
        what : str
            What is done meanwhile, in words.

        Raises
        ------
        NotYet
            If it is not done yet, too.
        """
        key = opened.url, function, repr(arguments)
        with self._lock:
            if key not in self._long:
                self._drop_answers()
                future: Future[Any] = Future()
                self._long[key] = time.monotonic(), future
                threading.Thread(
                    target=_answer,
                    args=(future, self.ask, opened, function, *arguments),
                    daemon=True,
                ).start()
            since, future = self._long[key]
        try:
            return future.result(self.patience)
        except TimeoutError:
            raise NotYet(f"{what}, since {time.monotonic() - since:.0f} s") from None
        finally:
            if future.done():
                with self._lock:
                    self._long.pop(key, None)

    def _drop_answers(self) -> None:
        """Of answers that nobody came back for, the oldest go: see ``ANSWERS``."""
        done = [key for key, (_, future) in self._long.items() if future.done()]
        for key in done[: max(0, len(self._long) - ANSWERS + 1)]:
            del self._long[key]

    def begin(self, opened: Opened, prepare: Callable[[Loaded], object]) -> None:
        """Have a store's model loaded, and wait for nothing: it will be asked soon.

        Parameters
        ----------
        opened : Opened
        prepare : callable
            ``f(loaded)``, of a module: what would take the first question longer than others.
        """
        pool = self._started()
        try:
            if not self.state(opened).ready:
                self._load(pool, opened)
                pool.submit(_prepare, opened.url, self.limit, prepare)
        except BrokenProcessPool:
            self._forget(pool)

    def state(self, opened: Opened) -> State:
        """How far a store's model is."""
        with self._lock:
            since, load = self._loads.get(opened.url, (0.0, None))
        if load is None or _failed(load):
            return State(False, False, "the model is not loaded: it is when it is first needed")
        if not load.done():
            return State(False, True, _being_loaded(opened, since))
        return State(True, False, "the model is ready")

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            pool = self._pool
        if pool is not None:
            self._forget(pool)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                # Not forked: the server has threads.
                spawn = multiprocessing.get_context("spawn")
                alive, self._alive = spawn.Pipe(duplex=False)
                self._pool = ProcessPoolExecutor(1, spawn, _begin, (alive,))
            return self._pool

    def _load(
        self, pool: ProcessPoolExecutor, opened: Opened | OpenedUnits
    ) -> tuple[float, Future[None]]:
        with self._lock:
            if opened.url not in self._loads or _failed(self._loads[opened.url][1]):
                load = pool.submit(_load, opened.url)
                self._loads[opened.url] = time.monotonic(), load
            return self._loads[opened.url]

    def _forget(self, pool: ProcessPoolExecutor) -> None:
        """Several may find that a process has ended; another may have been started since."""
        with self._lock:
            if self._pool is pool:
                assert self._alive is not None
                self._alive.close()
                self._pool = self._alive = None
                self._loads.clear()
        pool.shutdown(wait=False, cancel_futures=True)


def _failed(load: Future[None]) -> bool:
    return load.done() and load.exception() is not None


def _answer(future: Future[Any], ask: Callable[..., Any], *asked: object) -> None:
    try:
        future.set_result(ask(*asked))
    except BaseException as error:
        future.set_exception(error)


def _being_loaded(opened: Opened | OpenedUnits, since: float) -> str:
    return f"{opened.weights} being loaded, since {time.monotonic() - since:.0f} s"


def _too_long(limit: float) -> FacetError:
    return FacetError(f"the model did not answer within {limit:.0f} s: ask for less at once")


# -- in the model's process ----------------------------------------------------------------

_LOADED: dict[str, Loaded | Mined] = {}


def _begin(alive: Connection) -> None:
    """The process's start: it ends with the server, and pages that need no model come first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server's business
    os.nice(5)
    threading.Thread(target=_end_with_server, args=(alive,), daemon=True).start()


def _end_with_server(alive: Connection) -> None:
    with suppress(EOFError):
        alive.recv()  # nothing is ever sent
    os._exit(0)


def _load(url: str) -> None:
    if url in _LOADED:
        return
    # Only here is torch needed.
    from pipeline.rosetta.replay import open_mined

    with _told():
        if find_setup(url) is not None:
            _LOADED[url] = open_mined(url)
            return
        stores = [of for of in _LOADED.values() if isinstance(of, Loaded)]
        _LOADED[url] = _opened(open_store(url), stores)


def _opened(store: Store, others: Iterable[Loaded]) -> Loaded:
    from pipeline.texts.encoding import store_model

    same = (of.model for of in others if _model_of(of.store) == _model_of(store))
    return Loaded(store, next(same, None) or store_model(store))


def _model_of(store: Store) -> tuple[str, str, str]:
    meta = store.meta
    return meta.architecture_digest, meta.weights_digest, meta.activation


def _do(url: str, limit: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with _told(), _limited(limit):
        loaded = _LOADED[url]
        if isinstance(loaded, Loaded):
            store = open_store(url)
            if store.meta != loaded.store.meta:  # it has grown, or another stands there now
                _LOADED[url] = loaded = _opened(store, [loaded])
        return function(loaded, *arguments)


def _prepare(url: str, limit: float, function: Callable[..., Any]) -> None:
    """What is made stays in this process."""
    _do(url, limit, function, ())


@contextmanager
def _told() -> Iterator[None]:
    """Mistakes reach the server whatever their class is made of."""
    try:
        yield
    except FacetError as error:
        if type(error).__init__ is FacetError.__init__:
            raise
        raise FacetError(str(error), error.remedy) from None


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Whoever asked has stopped waiting by then, and others wait behind."""

    def give_up(*_: object) -> None:
        raise _too_long(seconds)

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
