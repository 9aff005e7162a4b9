"""Questions that wait for each other, answered at once where one pass can answer them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from pipeline.explorer.passes import PASS

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Together(Generic[Question, Answer]):
    """One pass after the other, each for all the questions of its kind that wait by then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, list[tuple[Question, Future[Answer]]]] = {}

    def ask(
        self,
        kind: Hashable,
        question: Question,
        answer: Callable[[list[Question]], Sequence[Answer]],
    ) -> Answer:
        """The answer to a question, which may be given with those of others of its kind.

        Parameters
        ----------
        kind : hashable
            Questions of one kind can be answered in one pass, by the ``answer`` of any of them.
        question : Question
        answer : callable
            Gets questions, and returns their answers in that order; what it raises is raised for
            all of them.
        """
        mine: Future[Answer] = Future()
        with self._lock:
            self._waiting.setdefault(kind, []).append((question, mine))
        with PASS:
            if not mine.done():
                with self._lock:
                    asked = self._waiting.pop(kind)
                self._pass(asked, answer)
        return mine.result()

    def _pass(
        self,
        asked: list[tuple[Question, Future[Answer]]],
        answer: Callable[[list[Question]], Sequence[Answer]],
    ) -> None:
        try:
            found = answer([question for question, _ in asked])
            for (_, waiting), value in zip(asked, found, strict=True):
                waiting.set_result(value)
        except BaseException as error:
            for _, waiting in asked:
                if not waiting.done():
                    waiting.set_exception(error)
