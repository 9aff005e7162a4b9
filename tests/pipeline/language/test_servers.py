"""Models behind a server: what is sent, what comes back, and servers that do not answer."""

import json
import threading

import pytest
from tenacity import wait_none

from pipeline.language import servers
from pipeline.language.choices import BASE_URL, KEY, base_url
from pipeline.language.servers import RefusedError, Server
from storage.errors import FacetError
from tests.pipeline.language.chat_kit import content, sensible, served

ASKED = [{"role": "user", "content": "?"}]
SETTINGS = {"temperature": 0.5, "max_tokens": 9}


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
        ((200, "<html>"), "does not speak the OpenAI protocol: it answered '<html>'", 1),
        ((200, '{"choices": []}'), "does not speak the OpenAI protocol", 1),
    ],
)
def test_a_server_that_gives_no_answer(reply, told, times, quick):
    with served(lambda body: reply) as chat:
        with pytest.raises(FacetError, match=told) as caught:
            Server(chat.url, "m", SETTINGS)(ASKED)
        assert len(chat.asked) == times
    assert "sk-hidden" not in str(caught.value)
    assert "are kept" in str(caught.value)


def test_half_a_character_is_none():
    reply = json.dumps({"choices": [{"message": {"content": "a star \ud800"}}]})
    with served(lambda body: (200, reply)) as chat:
        assert Server(chat.url, "m", SETTINGS)(ASKED) == "a star ?"


def test_a_server_that_sends_elsewhere_gets_no_key_taken_there(quick):
    with served(lambda body: (200, "")) as other, served(lambda body: (302, other.url)) as chat:
        with pytest.raises(FacetError, match=r"refused the question for model 'm' \(status 302\)"):
            Server(chat.url, "m", SETTINGS)(ASKED)
        assert len(chat.asked) == 1
        assert other.asked == []


def test_a_server_that_is_slow_or_down(quick):
    done = threading.Event()
    with served(lambda body: (done.wait(5), content("late"))[1]) as chat:
        with pytest.raises(FacetError, match=r"no answer in 5 tries: nothing came for 0.3 s"):
            Server(chat.url, "m", SETTINGS)(ASKED)
        done.set()
    with pytest.raises(FacetError, match="no answer in 5 tries: .*refused"):
        Server(chat.url, "m", SETTINGS)(ASKED)


def test_a_server_that_is_busy_for_a_while(quick):
    replies = iter([(429, ""), (500, ""), content("label: colours")])
    with served(lambda body: next(replies)) as chat:
        assert Server(chat.url, "m", SETTINGS)(ASKED) == "label: colours"
    with served(lambda body: content("")) as chat:
        assert Server(chat.url, "m", SETTINGS)(ASKED) == ""


def test_where_the_server_is(monkeypatch):
    for value, told in (("", "is not set"), ("localhost:80", "is 'localhost:80'")):
        monkeypatch.setenv(BASE_URL, value)
        with pytest.raises(FacetError, match=told):
            base_url()
    monkeypatch.setenv(BASE_URL, " http://localhost:80/v1/ ")
    assert base_url() == "http://localhost:80/v1"
    monkeypatch.delenv(KEY, raising=False)
    with served(sensible) as chat:
        Server(chat.url, "m", SETTINGS)(ASKED)
    assert chat.asked[0]["key"] == ""


def test_what_is_sent(quick):
    with served(sensible) as chat:
        server = Server(chat.url, "m", SETTINGS)
        server(ASKED)
        server(ASKED, seed=7)
    sent = {"model": "m", "messages": ASKED, **SETTINGS, "key": "sk-hidden"}
    plain, seeded = chat.asked
    assert plain == {**sent, "path": "chat/completions"}
    assert seeded == {**plain, "seed": 7}


def test_other_questions_than_chat(quick):
    with served(lambda body: (200, json.dumps({"data": [body["prompt"]]}))) as chat:
        server = Server(chat.url, "m", {})
        assert server.post("images/generations", {"prompt": "a cat"}) == {"data": ["a cat"]}
        assert chat.asked[0]["path"] == "images/generations"
        chat.reply = lambda body: (400, "not that")
        with pytest.raises(RefusedError, match="refused the question") as caught:
            server.post("images/generations", {"prompt": "a cat"})
    assert (caught.value.status, caught.value.said) == (400, "not that")
