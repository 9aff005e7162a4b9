"""Answers that are given again: which, for how long, and within how many bytes."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pipeline.explorer.web import memory
from pipeline.explorer.web.memory import Answers


class World:
    """Pages that count how often they were made."""

    def __init__(self, room=10**6):
        self.made, self.revision = 0, "a"
        routes = [
            Route("/page", self.page),
            Route("/passing", self.passing),
            Route("/missing", self.missing),
            Route("/large", self.large),
        ]
        self.answers = Answers(Starlette(routes=routes), self.of, room)
        self.client = TestClient(self.answers)

    async def of(self, path):
        return None if path == "/unkept" else self.revision

    def page(self, request):
        self.made += 1
        return PlainTextResponse(f"{request.url.query} {self.made} {self.revision}")

    def passing(self, request):
        self.made += 1
        return PlainTextResponse("soon", headers={"Cache-Control": "no-store"})

    def missing(self, request):
        self.made += 1
        return PlainTextResponse("none", 404)

    def large(self, request):
        self.made += 1
        return StreamingResponse(iter([b"x" * 700, b"y" * 700, b"z"]))


def test_a_page_is_made_once():
    world = World()
    first, again = (world.client.get("/page?a=1") for _ in range(2))
    assert first.text == again.text == "a=1 1 a"
    assert first.headers == again.headers
    assert world.client.get("/page?a=2").text == "a=2 2 a"


def test_what_a_page_is_made_of_may_change():
    world = World()
    world.client.get("/page")
    world.revision = "b"
    assert world.client.get("/page").text == " 2 b"


@pytest.mark.parametrize("path", ["/passing", "/missing"])
def test_what_is_not_there_yet_is_asked_for_again(path):
    world = World()
    world.client.get(path)
    world.client.get(path)
    assert world.made == 2
    assert world.answers.held == 0


def test_a_browser_that_has_the_page_is_told_so():
    world = World()
    tag = world.client.get("/page").headers["etag"]
    again = world.client.get("/page", headers={"If-None-Match": f'"other", W/{tag}'})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == tag
    assert world.client.get("/page", headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_head_of_a_page_is_that_of_the_page():
    world = World()
    head = world.client.head("/page")
    page = world.client.get("/page")
    assert head.headers == page.headers
    assert world.made == 1


def test_what_is_held_stays_within_its_bytes():
    world = World(room=5000)
    for number in range(50):
        world.client.get(f"/page?{number}")
        assert world.answers.held <= 5000
    assert world.answers.held == sum(a.size for a in world.answers._kept.values())
    made = world.made
    world.client.get("/page?49")
    assert world.made == made
    world.client.get("/page?0")
    assert world.made == made + 1


def test_a_large_answer_goes_out_as_it_comes(monkeypatch):
    monkeypatch.setattr(memory, "LARGEST", 1000)
    world = World()
    assert world.client.get("/large").content == b"x" * 700 + b"y" * 700 + b"z"
    assert world.answers.held == 0
