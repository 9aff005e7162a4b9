"""Batches on their way to a device and back; on a GPU while it computes others."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, replace
from queue import Full, Queue
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.images.card import on_device
from pipeline.images.load import LoadedImages


class Holder(Protocol):
    """A dataclass with a run of images in it, and whatever goes with them."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def loaded(self) -> LoadedImages: ...


Item = TypeVar("Item")
Run = TypeVar("Run", bound=Holder)
# Batches that wait on a GPU for their turn; and passes that it is given before the results of the
# first are taken.
WAITING, UNDER_WAY = 2, 1


@dataclass(frozen=True)
class Fetched:
    """Tensors on their way from a device, by name."""

    _tensors: dict[str, Tensor]
    _there: torch.cuda.Event | None = None

    def wait(self) -> dict[str, Tensor]:
        """On the CPU, once they are there."""
        if self._there is not None:
            self._there.synchronize()
        return self._tensors


class Link:
    """To a device and back. To and from a GPU copies run beside its work, from and to pinned
    memory; on a CPU there is nothing to do.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.under_way = UNDER_WAY if self.cuda else 0
        if self.cuda:
            self._to, self._back = torch.cuda.Stream(device), torch.cuda.Stream(device)

    @contextmanager
    def placed(self, batches: Iterable[Run]) -> Iterator[Iterator[tuple[Run, Tensor]]]:
        """Runs of images with their pixels, (batch, height, width, 3) uint8, on the device.

        What was left to the device is decoded there; ``loaded`` then says what became of it, and
        its own ``pixels`` are of no further use.

        To a GPU a thread sends them, so that it need not wait for them.
        """
        if not self.cuda:
            yield map(self._decoded, batches)
            return
        with ahead(map(self._send, batches), WAITING) as sent:
            yield map(self._received, sent)

    def _send(self, batch: Run) -> tuple[Run, Tensor, torch.cuda.Event]:
        if batch.loaded.encoded is not None:
            with torch.cuda.stream(self._to):
                return *self._decoded(batch), self._to.record_event()
        # torch gives pinned memory out again once the copy from it has ended.
        pinned = torch.from_numpy(batch.loaded.pixels).pin_memory()
        with torch.cuda.stream(self._to):
            pixels = pinned.to(self.device, non_blocking=True)
        return batch, pixels, self._to.record_event()

    def _decoded(self, batch: Run) -> tuple[Run, Tensor]:
        """With its pixels, of which some may be left to the device to decode."""
        if batch.loaded.encoded is None:
            return batch, torch.from_numpy(batch.loaded.pixels)
        loaded, pixels = on_device(batch.loaded, self.device)
        return replace(batch, loaded=loaded), pixels

    def _received(self, sent: tuple[Run, Tensor, torch.cuda.Event]) -> tuple[Run, Tensor]:
        batch, pixels, there = sent
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(there)
        pixels.record_stream(computing)
        return batch, pixels

    def fetch(self, tensors: dict[str, Tensor]) -> Fetched:
        """Tensors of the device to the CPU, without waiting for them."""
        if not self.cuda:
            return Fetched(tensors)
        self._back.wait_stream(torch.cuda.current_stream(self.device))
        fetched = {}
        with torch.cuda.stream(self._back):
            for name, tensor in tensors.items():
                fetched[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                fetched[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(self._back)
        return Fetched(fetched, self._back.record_event())


@contextmanager
def ahead(items: Iterable[Item], most: int) -> Iterator[Iterator[Item]]:
    """The same items, made by a thread, at most so many before they are asked for.

    What goes wrong in the thread is raised in its turn; the thread ends with the block.
    """
    queue: Queue[tuple[Item] | BaseException | None] = Queue(most)
    stopped = threading.Event()

    def put(what: tuple[Item] | BaseException | None) -> bool:
        """Whether there was room before all was stopped."""
        while not stopped.is_set():
            try:
                queue.put(what, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item,)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    def made() -> Iterator[Item]:
        while (what := queue.get()) is not None:
            if isinstance(what, BaseException):
                raise what
            yield what[0]

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield made()
    finally:
        stopped.set()
        thread.join()
