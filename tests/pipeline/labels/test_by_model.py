"""What language models are asked, and how their answers are read."""

import threading

import pytest
from tenacity import wait_none

from pipeline.labels import servers
from pipeline.labels.by_model import judge_heads, read_fits, read_label
from pipeline.labels.choices import BASE_URL, KEY, base_url
from pipeline.labels.examples import load_examples
from pipeline.labels.servers import Server
from storage.errors import FacetError
from tests.pipeline.labels.chat_kit import content, sensible, served

ASKED = [{"role": "user", "content": "?"}]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("label: colours", "colours"),
        ("Label:  Cities and  Countries.\n", "cities and countries"),
        ("<think>label: one\nor two</think>\n**label:** `animals`", "animals"),
        ("I would say colours", None),
        ("label:", None),
        ("label: PROPERTY", None),
        ("label: ?!", None),
        ("label: " + "very " * 20, None),
        ("", None),
    ],
)
def test_labels_are_read_from_their_line(answer, label):
    assert read_label(answer) == label


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ("fits: 1, 3", (True, False, True)),
        ("fits: 2 and 3", (False, True, True)),
        ("Fits: none.", (False, False, False)),
        ("fits: 1 2 3", (True, True, True)),
        ("fits: 4", None),
        ("fits: 0", None),
        ("fits: all", None),
        ("fits:", None),
        ("1, 3", None),
        ("fits: not 2", None),
    ],
)
def test_texts_that_fit_are_read_from_their_line(answer, fits):
    assert read_fits(answer, 3) == fits


def test_what_is_asked(tmp_path):
    asked = []

    def ask(messages):
        asked.append(list(messages))
        return "fits: 2" if messages[-1]["content"].startswith("property") else "label: colours"

    texts = {(0, 1): ["a", "b"], (1, 0): []}
    found = judge_heads(ask, texts, load_examples(None), ["colours", "rare"], 2, str(tmp_path))
    assert found[(0, 1)].label == "colours"
    assert found[(0, 1)].fits == (False, True)
    assert not found[(0, 1)].unread
    assert found[(1, 0)].label is None  # a head without texts is not asked about
    first, second = asked
    assert "colours, rare" in first[0]["content"]
    assert first[2] == {"role": "assistant", "content": "label: colours"}
    assert len(first) == len(second) == 12  # what is wanted, five pairs, the question
    assert first[-1]["content"] == "1. a\n2. b"
    assert second[-1]["content"] == "property: colours\n1. a\n2. b"
    assert second[2] == {"role": "assistant", "content": "fits: 1, 2, 3, 4"}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(servers, "WAIT", wait_none())
    monkeypatch.setattr(servers, "SECONDS", 0.3)
    monkeypatch.setenv(KEY, "sk-hidden")


@pytest.mark.parametrize(
    ("reply", "told", "times"),
    [
        ((401, "who is sk-hidden?"), r"wants another key \(status 401\): set OPENAI_API_KEY", 1),
        (
            (404, "no model m"),
            r"refused the question for model 'm' .*: 'no model m'",
            1,
        ),
        ((429, "slower"), r"no answer in 5 tries: status 429, 'slower'", 5),
        ((503, "busy, sk-hidden"), r"no answer in 5 tries: status 503, 'busy, …'", 5),
        ((200, "<html>"), "does not speak the OpenAI chat protocol: it answered '<html>'", 1),
        ((200, '{"choices": []}'), "does not speak the OpenAI chat protocol", 1),
    ],
)
def test_a_server_that_gives_no_answer(reply, told, times, quick):
    with served(lambda body: reply) as chat:
        with pytest.raises(FacetError, match=told) as caught:
            Server(chat.url, "m")(ASKED)
        assert len(chat.asked) == times
    assert "sk-hidden" not in str(caught.value)
    assert "are kept" in str(caught.value)


def test_a_server_that_sends_elsewhere_gets_no_key_taken_there(quick):
    with served(lambda body: (200, "")) as other, served(lambda body: (302, other.url)) as chat:
        with pytest.raises(FacetError, match=r"refused the question for model 'm' \(status 302\)"):
            Server(chat.url, "m")(ASKED)
        assert len(chat.asked) == 1
        assert other.asked == []


def test_a_server_that_is_slow_or_down(quick):
    done = threading.Event()
    with served(lambda body: (done.wait(5), content("late"))[1]) as chat:
        with pytest.raises(FacetError, match=r"no answer in 5 tries: nothing came for 0.3 s"):
            Server(chat.url, "m")(ASKED)
        done.set()
    with pytest.raises(FacetError, match="no answer in 5 tries: .*refused"):
        Server(chat.url, "m")(ASKED)


def test_a_server_that_is_busy_for_a_while(quick):
    replies = iter([(429, ""), (500, ""), content("label: colours")])
    with served(lambda body: next(replies)) as chat:
        assert Server(chat.url, "m")(ASKED) == "label: colours"
    with served(lambda body: content("")) as chat:
        assert Server(chat.url, "m")(ASKED) == ""


def test_where_the_server_is(monkeypatch):
    for value, told in (("", "is not set"), ("localhost:80", "is 'localhost:80'")):
        monkeypatch.setenv(BASE_URL, value)
        with pytest.raises(FacetError, match=told):
            base_url()
    monkeypatch.setenv(BASE_URL, " http://localhost:80/v1/ ")
    assert base_url() == "http://localhost:80/v1"
    monkeypatch.delenv(KEY, raising=False)
    with served(sensible) as chat:
        Server(chat.url, "m")(ASKED)
    assert chat.asked[0]["key"] == ""
