"""What stands before every page: whom it lets in, and what it says of every answer."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pipeline.explorer.web import guard
from pipeline.explorer.web.guard import HEADERS, Guard, names_of


def page(request):
    return PlainTextResponse(f"seen {request.url.query}")


async def length(request):
    return PlainTextResponse(str(len(await request.body())))


APP = Starlette(
    routes=[
        Route("/", page),
        Route("/a b", page),
        Route("/api/x", page),
        Route("/take", length, methods=["POST"]),
    ]
)


ALLOWED = ("default-src 'self'", "object-src 'none'")


def visitor(host="127.0.0.1", token=None, url="http://127.0.0.1:8000"):
    app = Guard(APP, names_of(host), token)
    return TestClient(app, base_url=url, follow_redirects=False)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:9"])
def test_names_of_this_machine_are_let_in(host):
    answer = visitor().get("/", headers={"Host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.7", "", "127.0.0.1@evil", "a b"]
)
def test_another_name_is_refused(host):
    """A name of another site that leads here is how its pages would read ours."""
    answer = visitor().get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "seen" not in answer.text


def test_two_names_are_none():
    client = visitor()
    hosts = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    assert client.get("/", headers=hosts).status_code == 421


def test_every_answer_forbids_what_is_not_from_here():
    for path in ("/", "/nothing", "/?x=%ff"):
        answer = visitor().get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"].split("; ")
    assert policy[0] == "default-src 'self'"
    assert not [part for part in policy if "-src" in part and part not in ALLOWED]
    assert HEADERS["Referrer-Policy"] == "same-origin"  # addresses say what was looked at


@pytest.mark.parametrize("path", ["/%ff", "/?text=%c3%28", "/%00", "/?a=%00", "/?a=%1b[31m"])
def test_an_address_that_is_no_text_is_refused(path):
    answer = visitor().get(path)
    assert answer.status_code == 400
    assert "address" in answer.text


def test_a_text_in_any_language_is_let_in():
    answer = visitor().get("/?text=ein+Stern%0A%E2%AD%90")
    assert answer.status_code == 200


def test_a_long_address_is_refused():
    assert visitor().get("/?a=" + "b" * 8000).status_code == 200
    assert visitor().get("/?a=" + "b" * 8200).status_code == 414


def test_a_large_body_is_refused_told_or_not(monkeypatch):
    monkeypatch.setattr(guard, "BODY_BYTES", 1000)
    assert visitor().post("/take", content=b"x" * 1000).text == "1000"
    assert visitor().post("/take", content=b"x" * 1001).status_code == 413
    untold = visitor().post("/take", content=iter([b"x" * 600, b"x" * 600]))
    assert untold.status_code == 413


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_may_link_here_and_no_more(site):
    follows = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert visitor().get("/", headers=follows).status_code == 200
    assert visitor().post("/take", headers=follows).status_code == 403
    shows = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert visitor().get("/", headers=shows).status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://["]
)
def test_nothing_is_taken_from_another_origin(origin):
    assert visitor().post("/take", headers={"Origin": origin}).status_code == 403
    ours = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert visitor().post("/take", headers=ours).status_code == 200


def test_from_other_machines_the_token_is_needed():
    client = visitor("0.0.0.0", "secret", "http://10.0.0.7:8000")
    for path in ("/", "/api/x", "/?token=wrong", "/?token="):
        answer = client.get(path)
        assert answer.status_code == 401
        assert "?token=" in answer.text
        assert "secret" not in answer.text
    assert client.get("/api/x").json()["error"]


def test_the_token_in_an_address_becomes_a_cookie_and_leaves_the_address():
    client = visitor("0.0.0.0", "secret", "http://10.0.0.7:8000")
    answer = client.get("/a%20b?text=a+b&token=secret&text=c")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/a%20b?text=a+b&text=c"
    kept = answer.headers["set-cookie"]
    assert kept.startswith("facet-8000=")  # of this port alone
    assert "HttpOnly" in kept
    assert "SameSite=Lax" in kept
    assert client.get(answer.headers["location"]).text == "seen text=a+b&text=c"


def test_the_way_on_never_leads_elsewhere():
    client = visitor("0.0.0.0", "secret", "http://10.0.0.7:8000")
    answer = client.get("http://10.0.0.7:8000//evil.example/?token=secret")
    assert answer.headers["location"] == "/evil.example/"


def test_a_script_gives_the_token_as_a_header():
    client = visitor("0.0.0.0", "secret", "http://10.0.0.7:8000")
    assert client.get("/api/x", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.get("/api/x", headers={"Authorization": "Bearer other"}).status_code == 401


def test_a_cookie_that_is_none_is_no_token():
    client = visitor("0.0.0.0", "secret", "http://10.0.0.7:8000")
    assert client.get("/", headers={"Cookie": b"a=b;;;facet-8000=\xffx"}).status_code == 401


def test_a_name_of_another_site_is_refused_with_the_token_too():
    client = visitor("0.0.0.0", "secret", "http://evil.example:8000")
    assert client.get("/?token=secret").status_code == 421
