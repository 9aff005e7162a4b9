"""The models' process: loaded once, asked from many threads, refused, ended, started again."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.explorer import model, words
from pipeline.explorer.errors import NotHere
from pipeline.explorer.model import LIMIT, WAITING, ModelProcess, NotYet, State
from pipeline.texts import load_pool
from pipeline.texts.encoding import TextEncoder
from storage.errors import FacetError
from storage.views import find

# What the process is asked for here.


def who(loaded, *arguments):
    return os.getpid(), id(loaded.model), loaded.store.url, arguments


def refuse(loaded, message):
    raise NotHere(message)


def end(loaded):
    os._exit(9)


def sleep(loaded, seconds):
    time.sleep(seconds)


def wait_for(loaded, path):
    while not os.path.exists(path):
        time.sleep(0.01)


def test_one_process_has_one_model_for_many_askers(library, opened):
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(library.model.ask, opened, who, i) for i in range(6)]
        found = [one.result() for one in asked]
    assert len({(pid, model) for pid, model, _, _ in found}) == 1
    assert found[0][0] != os.getpid()
    assert [arguments for *_, arguments in found] == [(i,) for i in range(6)]
    assert library.model.state(opened) == State(True, False, "the model is ready")


def test_stores_of_one_model_share_it(library, opened, tmp_path):
    from jobs import encode_texts

    view = str(tmp_path / "view")
    encode_texts.main(encode_texts.EncodeTextsConfig(opened.url, "microworld", out=view))
    assert find(view)[0] == opened.url
    other = SimpleNamespace(url=view, meta=opened.meta)
    assert library.model.ask(other, who)[1] == library.model.ask(opened, who)[1]


def test_a_refusal_reaches_who_asked(library, opened):
    with pytest.raises(NotHere, match="no such neuron"):
        library.model.ask(opened, refuse, "no such neuron")


def test_a_process_that_ends_is_started_again(library, opened):
    before = library.model.ask(opened, who)[0]
    with pytest.raises(NotYet, match="has ended"):
        library.model.ask(opened, end)
    assert not library.model.state(opened).ready
    assert library.model.ask(opened, who)[0] != before


def test_what_takes_too_long_is_given_up_and_the_next_is_answered(library, opened):
    library.model.ask(opened, who)
    library.model.limit = 0.3
    try:
        with pytest.raises(FacetError, match="did not answer within"):
            library.model.ask(opened, sleep, 60)
    finally:
        library.model.limit = LIMIT
    started = time.monotonic()
    library.model.ask(opened, who)
    assert time.monotonic() - started < 30


def test_too_many_at_once_are_told_so(library, opened, tmp_path):
    model, go = library.model, tmp_path / "go"
    model.ask(opened, who)
    with ThreadPoolExecutor(WAITING) as threads:
        waiting = [threads.submit(model.ask, opened, wait_for, str(go)) for _ in range(WAITING)]
        while model._waiting._value:
            time.sleep(0.01)
        with pytest.raises(NotYet, match="too many"):
            model.ask(opened, who)
        go.touch()
        for one in waiting:
            one.result()


def test_a_model_that_is_being_loaded_says_so(opened):
    model, before = ModelProcess(patience=0.05), multiprocessing.active_children()
    try:
        assert str(model.state(opened)).startswith("the model is not loaded")
        with pytest.raises(NotYet, match=r"is being loaded, since \d+ s"):
            model.ask(opened, who)
        assert model.state(opened).loading
        model.begin(opened, who)  # waits for nothing
    finally:
        model.close()
    started = time.monotonic()
    while any(child not in before for child in multiprocessing.active_children()):
        assert time.monotonic() - started < 20, "it goes on though nobody is there to answer"
        time.sleep(0.05)


def test_a_model_that_is_not_to_be_had_is_told(library, opened):
    gone = SimpleNamespace(url=opened.url + "-gone", meta=opened.meta)
    with pytest.raises(FacetError, match="no store at"):
        library.model.ask(gone, who)
    assert not library.model.state(gone).loading


# -- words ---------------------------------------------------------------------------------


def test_texts_are_what_the_encoder_says_kept_or_new(library, opened, modelled):
    kept = load_pool("microworld").texts[5]
    found = words.directions(library, opened, ["a heart in the snow", kept, "a heart in the snow"])
    expected = TextEncoder(modelled).encode("texts", ["a heart in the snow", kept]).embeddings
    np.testing.assert_allclose(found, expected[[0, 1, 0]], atol=1e-6)
    assert found.dtype == np.float32


def test_kept_texts_need_no_model(opened, monkeypatch):
    class Nobody:
        def ask(self, *_):
            raise AssertionError("the model was asked")

    pool = load_pool("microworld")
    found = words.directions(SimpleNamespace(model=Nobody()), opened, pool.texts[:7])
    assert found.shape == (7, opened.meta.embed)


def test_typed_texts_are_tidied_and_bounded(library, opened):
    assert words.tidied([" a  star ", "", "a star", "snow"]) == ("a star", "snow")
    with pytest.raises(FacetError, match="letters"):
        words.tidied(["x" * 301])
    with pytest.raises(FacetError, match="64 at most"):
        words.tidied([str(i) for i in range(65)])
    with pytest.raises(FacetError, match="more than the 16 tokens"):
        words.directions(library, opened, ["a star " * 20])


def test_answers_that_nobody_comes_back_for_are_bounded(library, opened, monkeypatch):
    monkeypatch.setattr(model, "ANSWERS", 3)
    asked, gone = model.ModelProcess(patience=0.0), threading.Semaphore(0)

    def answer(opened, function, number):
        gone.acquire(timeout=60)
        return number

    monkeypatch.setattr(asked, "ask", answer)
    for number in range(9):
        with pytest.raises(NotYet):
            asked.ask_long(opened, "counting", abs, number)
        gone.release()
        for _, future in list(asked._long.values()):
            future.result(60)
    assert len(asked._long) <= 3


def test_a_process_that_cannot_start_leaves_room_for_the_next_question(opened, monkeypatch):
    asked = model.ModelProcess()

    def fails():
        raise OSError("no memory")

    monkeypatch.setattr(asked, "_started", fails)
    for _ in range(model.WAITING + 1):
        with pytest.raises(OSError, match="no memory"):
            asked.ask(opened, abs)
