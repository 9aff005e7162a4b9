"""Batches made ahead by a thread: in order, no more than asked for, and with their errors."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.extraction.feed import Link, ahead


def test_items_come_in_order_and_no_more_are_made_than_may_wait():
    made: list[int] = []

    def items():
        for item in range(20):
            made.append(item)
            yield item

    came = []
    with ahead(items(), 3) as sent:
        for item in sent:
            time.sleep(0.02)
            came.append(item)
            # Those that wait, and one that the thread holds until there is room.
            assert len(made) <= len(came) + 3 + 1
    assert came == made == list(range(20))


def test_they_are_made_before_they_are_asked_for():
    made = threading.Event()

    def items():
        yield 0
        made.set()
        yield 1

    with ahead(items(), 2) as sent:
        assert made.wait(10)
        assert list(sent) == [0, 1]


def test_what_goes_wrong_in_the_thread_is_raised_in_its_turn():
    def items():
        yield 0
        raise OSError("the disk is gone")

    with ahead(items(), 3) as sent:
        assert next(sent) == 0
        with pytest.raises(OSError, match="the disk is gone"):
            next(sent)


def test_the_thread_ends_with_the_block():
    before, made = threading.active_count(), []

    def items():
        while True:
            made.append(1)
            yield 1

    with pytest.raises(KeyError), ahead(items(), 2) as sent:
        next(sent)
        raise KeyError
    assert threading.active_count() == before
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no GPU"))],
)  # fmt: skip
def test_pictures_go_to_a_device_and_numbers_come_back(device):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (64, 9, 9, 3), np.uint8) for _ in range(12)]
    batches = [SimpleNamespace(loaded=SimpleNamespace(pixels=p, encoded=None)) for p in pixels]
    link, taken = Link(torch.device(device)), []
    with link.placed(batches) as placed:
        for batch, there in placed:
            assert there.device.type == device
            taken.append((batch, link.fetch({"twice": there.float() * 2, "rows": there[:, 0]})))
    for (batch, fetched), want in zip(taken, pixels, strict=True):
        assert batch.loaded.pixels is want
        found = fetched.wait()
        assert np.array_equal(found["twice"].numpy(), want.astype(np.float32) * 2)
        assert np.array_equal(found["rows"].numpy(), want[:, 0])
