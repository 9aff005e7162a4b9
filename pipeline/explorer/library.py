"""What the explorer looks at: stores and dictionaries of shared units, by short names."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from pipeline.explorer.errors import NotHere
from pipeline.explorer.memory import Memory
from pipeline.explorer.model import ModelProcess
from pipeline.explorer.pictures import Pictures
from pipeline.explorer.uploads import Uploads
from storage import head_index, layout, open_store, urls, views
from storage.errors import FacetError
from storage.layout import LEDGER, RESULTS
from storage.metadata import Metadata
from storage.results import Result, finished_results
from storage.rosetta import Setup, find_setup
from storage.store import Store

# A store is asked at most this often whether anything of it has changed, seconds.
FRESH = 5.0

Following = Callable[[Store, str], Mapping[str, str]]
Typed = Callable[[str, Mapping[str, Any]], str]
Value = TypeVar("Value")


class Opened:
    """A store that is looked at.

    Attributes
    ----------
    name : str
        What it is called in addresses.
    url, typed : str
        Where it is, and as it was given.
    command : callable
        What was typed for a result, of its job and settings; empty where no job makes it.
    """

    def __init__(self, name: str, typed: str, following: Following, command: Typed) -> None:
        self.name, self.typed, self.url = name, typed, urls.absolute(typed)
        self._following, self.command = following, command
        self._memory = Memory()
        self._lock = threading.Lock()
        self._asked, self._revision = 0.0, ""
        self._opened: tuple[str, Store] | None = None

    @property
    def store(self) -> Store:
        """The store, read only; opened again when it has changed: it may have grown."""
        revision = self.revision
        with self._lock:
            if self._opened is None or self._opened[0] != revision:
                self._opened = revision, open_store(self.url)
            return self._opened[1]

    @property
    def meta(self) -> Metadata:
        return self.store.meta

    @property
    def weights(self) -> str:
        """What is loaded where the model is needed, in words."""
        return f"the model {self.meta.architecture} is"

    @property
    def prefix(self) -> str:
        """The tokens before the patches in words; empty where there are none."""
        meta = self.meta
        if not meta.prefix:
            return ""
        # The pool over a convolutional network has their mean as its first token.
        pooled = meta.reading == "attention-pool" and not meta.trunk_layers
        first = "the mean token" if pooled else "the class token"
        return first if meta.prefix == 1 else f"{first}, registers"

    @property
    def revision(self) -> str:
        """Changes when shards are finished, or results are found or deleted; told anew every few
        seconds."""
        with self._lock:
            if time.monotonic() - self._asked > FRESH or not self._asked:
                said = str(_changes(self.url))
                self._asked, self._revision = time.monotonic(), f"{hash(said) & 2**64 - 1:x}"
            return self._revision

    def look_again(self) -> None:
        """Have the store asked at once whether anything of it has changed."""
        with self._lock:
            self._asked = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the revision is known without a look at the store."""
        return bool(self._asked) and time.monotonic() - self._asked <= FRESH

    def cached(self, key: object, make: Callable[[], Value]) -> Value:
        """What is made once for a key, as long as the store is as it was and there is room."""
        return self._memory.get((self.revision, key), make)

    def results(self, job: str) -> list[Result]:
        """Finished results of a job, the one that was asked for last first."""

        def find() -> list[Result]:
            place = self.store.data if job == "extract" else self.url
            return finished_results(place, job)[::-1]

        return self.cached(("results", job), find)

    def latest(self, job: str) -> Result | None:
        """The result of a job that was asked for last; None where there is none."""
        return next(iter(self.results(job)), None)

    def hints(self) -> Mapping[str, str]:
        """The commands that would find what jobs find, by job."""
        return self._following(self.store, self.typed)

    def hint(self, job: str) -> str:
        """The command that would find what a job finds."""
        return self.hints().get(job, "")


def _changes(url: str) -> list[object]:
    """What differs when anything of a store does that views show."""
    data = views.find(url)[0]
    ledger = urls.list_times(urls.join(data, LEDGER))
    reductions = urls.join(url, layout.REDUCTIONS)
    return [
        # What says of what the store is; it has other images where it has grown.
        urls.list_times(urls.join(data, layout.CONTRIBUTIONS)),
        (len(ledger), max(ledger.values(), default=0.0)),
        urls.list_changes(urls.join(url, RESULTS)),
        [
            urls.list_times(urls.join(reductions, name))
            for name in urls.list_names(reductions)
            if "." not in name
        ],
        _index_changes(url),
    ]


def _index_changes(url: str) -> list[object]:
    parts = head_index.kept_parts(url)
    folders = (urls.join(url, layout.INDEX, *of) for of in ((), ("heads",), ("blocks",)))
    # What a part is of is in a file of it; where folders have no times, the last part has to do.
    last = urls.list_times(head_index.part_url(url, parts[-1])) if parts else {}
    return [parts, last, *map(urls.list_changes, folders)]


class OpenedUnits:
    """A place of units that models share.

    Attributes
    ----------
    name : str
        What it is called in addresses.
    url, typed : str
        Where it is, and as it was given.
    """

    def __init__(self, name: str, typed: str) -> None:
        self.name, self.typed, self.url = name, typed, urls.absolute(typed)
        self._memory = Memory()

    @cached_property
    def setup(self) -> Setup:
        found = find_setup(self.url)
        if found is None:
            raise FacetError(f"{self.typed} holds no shared units")
        return found

    @property
    def weights(self) -> str:
        """What is loaded where the models are needed, in words."""
        return "the models that share units are"

    def latest(self, job: str) -> Result | None:
        """The result of a job that was asked for last; None where there is none."""
        return next(iter(finished_results(self.url, job)[::-1]), None)

    def cached(self, key: object, make: Callable[[], Value]) -> Value:
        """What is made once for a key, as long as there is room."""
        return self._memory.get(key, make)


class Library:
    """All that is looked at.

    Parameters
    ----------
    stores, rosettas : iterable of str
        Addresses of stores and of places of shared units, as they were given.
    following : callable
        Of a store and its address as given, the commands that find what is lacking, by job.
    command : callable
        Of a job and a result's settings, what was typed for it.

    Attributes
    ----------
    stores : dict of str to Opened
    rosettas : dict of str to OpenedUnits
        By the names that stand in addresses.
    pictures : Pictures
        Of images, as they are shown.
    model : ModelProcess
        Asks the models of the stores.
    uploads : Uploads
        Pictures that visitors brought.
    """

    def __init__(
        self,
        stores: Iterable[str],
        rosettas: Iterable[str],
        following: Following,
        command: Typed = lambda job, config: "",
    ) -> None:
        self.stores = {
            n: Opened(n, typed, following, command) for n, typed in named(stores).items()
        }
        self.rosettas = {n: OpenedUnits(n, typed) for n, typed in named(rosettas).items()}
        self.pictures = Pictures()
        self.uploads = Uploads()
        self.model = ModelProcess()

    def close(self) -> None:
        """End what runs beside the server."""
        self.model.close()

    def opened(self, name: str) -> Opened:
        """A store by its name in addresses.

        Raises
        ------
        NotHere
            If none has that name.
        """
        if name not in self.stores:
            raise NotHere(f"no store is called {name!r} here, but {', '.join(self.stores)}")
        return self.stores[name]

    def units(self, name: str) -> OpenedUnits:
        """A place of shared units by its name in addresses.

        Raises
        ------
        NotHere
            If none has that name.
        """
        if name not in self.rosettas:
            there = ", ".join(self.rosettas) or "none"
            raise NotHere(f"no shared units are called {name!r} here, but {there}")
        return self.rosettas[name]


def named(places: Iterable[str]) -> dict[str, str]:
    """Places by short names of letters, digits and hyphens; those of one name are numbered."""
    found: dict[str, str] = {}
    for place in dict.fromkeys(places):
        parts = [p for p in re.split(r"[/\\]", place) if p not in ("", ".", "..")]
        word = re.sub(r"[^a-z0-9]+", "-", (parts[-1] if parts else "store").lower()).strip("-")
        word = name = word or "store"
        number = 1
        while name in found:
            number += 1
            name = f"{word}-{number}"
        found[name] = place
    return found
