"""What views derive is kept within its bytes: what was not asked for longest goes first."""

import numpy as np

from pipeline.explorer.memory import Memory


def test_what_was_asked_for_last_stays():
    kept, made = Memory(room=1000), []

    def ask(key: str) -> None:
        kept.get(key, lambda: made.append(key) or np.zeros(300, np.uint8))

    for key in "abcabdab":
        ask(key)
    # `d` found no room, and of a, b and c, c had not been asked for longest.
    assert made == ["a", "b", "c", "d"]
    assert kept.held <= 1000


def test_what_is_too_large_is_made_again():
    kept, made = Memory(room=1000), []
    for _ in range(2):
        kept.get("large", lambda: made.append(1) or np.zeros(600, np.uint8))
    assert (len(made), kept.held) == (2, 0)
