"""Several questions at once: their answers in order, and none begun where nobody waits for it."""

import threading
import time

import pytest

from pipeline.language.threads import in_threads


def test_answers_come_in_order_and_several_are_under_way():
    together = threading.Barrier(3)

    def ask(number: int) -> int:
        together.wait(30)
        time.sleep(0.01 * (5 - number))
        return number

    assert list(in_threads(ask, range(6), 3)) == [*range(6)]


@pytest.mark.parametrize("at", ["the model", "the reader"])
def test_what_has_not_begun_is_not_begun_after_a_failure(at):
    begun = []

    def ask(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        if at == "the model" and number == 1:
            raise ValueError("no answer")
        return number

    with pytest.raises(ValueError, match="no answer"):
        for number in in_threads(ask, range(200), 2):
            if number == 1:
                raise ValueError("no answer")
    assert len(begun) < 20
