"""Questions that wait are answered by one pass; what it raises is raised for each."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.explorer.together import Together


def test_questions_that_wait_are_answered_in_one_pass():
    begun, go, passes = threading.Event(), threading.Event(), []

    def answer(asked):
        passes.append(asked)
        begun.set()
        assert go.wait(10)
        return [10 * one for one in asked]

    together = Together()
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(together.ask, "a", 0, answer)
        assert begun.wait(10)
        others = [threads.submit(together.ask, "a", i, answer) for i in range(1, 5)]
        other = threads.submit(together.ask, "b", 7, answer)
        while sum(map(len, together._waiting.values())) < 5:
            pass
        go.set()
        assert first.result(10) == 0
        assert [one.result(10) for one in others] == [10, 20, 30, 40]
        assert other.result(10) == 70
    assert sorted(map(len, passes)) == [1, 1, 4]


def test_what_a_pass_raises_is_raised_for_each_and_the_next_is_answered():
    def refuse(asked):
        raise ValueError("no index")

    together = Together()
    for _ in range(2):
        with pytest.raises(ValueError, match="no index"):
            together.ask("a", 1, refuse)
    assert together.ask("a", 1, lambda asked: asked) == 1
