"""Pictures are brought by a request whose body they are, and are refused in words."""

import pytest
from starlette.testclient import TestClient

from pipeline.explorer.library import Library
from pipeline.explorer.web.app import make_app
from tests.pipeline.explorer.brought import picture
from tests.storage import stores


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    url = stores.fill(stores.new_store(str(tmp_path_factory.mktemp("s") / "one"))).url
    return Library([url], [], lambda store, typed: {})


@pytest.fixture(scope="module")
def client(library):
    return TestClient(make_app(library), raise_server_exceptions=False)


def test_a_picture_is_held_under_an_address_of_its_own(library, client):
    answer = client.post("/s/one/picture?name=dog.png", content=picture("red", (9, 5)))
    assert answer.status_code == 201
    found = answer.json()
    assert found["address"] == answer.headers["location"] == f"/s/one/picture/{found['id']}"
    assert (found["name"], found["width"], found["height"]) == ("dog.png", 9, 5)
    assert library.uploads.get(found["id"]).data == picture("red", (9, 5))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "dog.png cannot be read: the file is empty"),
        (b"<html>", 400, "dog.png cannot be read: "),
        (b"\0" * ((32 << 20) + 1), 413, "at most 32 MiB"),
    ],
    ids=["empty", "no picture", "too large"],
)
def test_what_cannot_be_held_is_refused_in_words(client, body, status, said):
    answer = client.post("/s/one/picture?name=dog.png", content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_a_picture_for_a_store_that_is_not_there(client):
    answer = client.post("/s/other/picture", content=picture("red"))
    assert answer.status_code == 404
    assert "no store is called 'other'" in answer.json()["error"]


def test_an_error_of_ours_shows_no_trace(library, client, monkeypatch):
    monkeypatch.setattr(library.uploads, "add", None)
    answer = client.post("/s/one/picture", content=picture("red"))
    assert answer.status_code == 500
    assert "terminal" in answer.json()["error"]
    assert "Traceback" not in answer.text
