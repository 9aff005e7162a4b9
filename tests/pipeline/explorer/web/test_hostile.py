"""Requests that mean harm, sent to the real application over real sockets: each ends in words, none
in a trace, a file that is not the store's, or a server that is gone."""

import json

import pytest
from PIL import Image

from pipeline.explorer.library import Library
from pipeline.explorer.web.app import make_app
from pipeline.explorer.web.serving import guarded
from tests.pipeline.explorer.web.serve import ask, get, post, serving, status
from tests.pipeline.images.kit import encode
from tests.storage import stores

HUGE = b"9" * 400


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    (folder / "secret.txt").write_text("a secret")
    url = stores.fill(stores.new_store(str(folder / "one"))).url
    library = Library([url], [], lambda store, typed: {})
    yield make_app(library), library
    library.close()


@pytest.fixture(scope="module")
def port(app):
    made, library = app
    with serving(guarded(made, library, "127.0.0.1", None)) as port:
        yield port


@pytest.fixture(scope="module")
def addresses(app):
    """Every address that can be read, with names between braces."""
    made, _ = app
    return [path for path in made.openapi()["paths"] if path.startswith("/api/s/")]


def refused(answer):
    """Whether an answer is a refusal in words."""
    assert 400 <= status(answer) < 500, answer[:300]
    assert b"Traceback" not in answer
    assert b"a secret" not in answer
    assert b"content-security-policy: default-src 'self'" in answer.lower()
    return True


@pytest.mark.parametrize("to", [b"secret.txt", b"etc/passwd", b"app.py"])
@pytest.mark.parametrize(
    "up", [b"..", b"%2e%2e", b"%2e%2e%2f..", b"..%2f..", b"..%5c..", b"....//"]
)
@pytest.mark.parametrize(
    "under", [b"/static/", b"/s/one/", b"/s/one/image/", b"/s/one/result/", b"/"]
)
def test_no_address_leads_out_of_what_is_served(port, under, up, to):
    for steps in (1, 4):
        assert refused(get(port, under + b"/".join([up] * steps) + b"/" + to))


@pytest.mark.parametrize("name", [b"file:%2f%2f%2fetc%2fpasswd", b"s3:%2f%2fbucket%2fx", b"%2ftmp"])
def test_a_place_never_comes_from_a_request(port, name):
    assert refused(get(port, b"/s/" + name))
    assert refused(get(port, b"/r/" + name))


@pytest.mark.parametrize(
    "value",
    [
        HUGE,
        b"-1",
        b"-" + HUGE,
        b"1e400",
        b"nan",
        b"0x10",
        b"%F0%9F%98%80",
        b"%E2%80%AE",
        b"%27%3B--",
    ],
)
def test_what_no_address_can_mean_is_refused_in_words(port, addresses, value):
    """Wherever an address has a name or a number, for pages and for their data."""
    for address in addresses:
        path = address.replace("{store}", "one")
        if "{" not in path:
            continue
        while "{" in path:
            start, end = path.index("{"), path.index("}")
            path = path[:start] + value.decode() + path[end + 1 :]
        answer = get(port, path.encode())
        assert refused(answer), path
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert refused(get(port, path.removeprefix("/api").encode())), path


@pytest.mark.parametrize(
    "raw", [b"/s/one%ff", b"/s/one?where=%c3%28", b"/s/\xff\xfe", b"/s/one%00"]
)
def test_bad_utf_8_is_refused(port, raw):
    answer = get(port, raw)
    assert status(answer) == 400
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    "query",
    [
        b"where=" + b"(" * 2000,
        b"where=__import__(%27os%27).system(%27true%27)",
        b"where=1;%20copy%20(select%201)%20to%20%27/tmp/x%27",
        b"where=index%20in%20(select%20content%20from%20read_text(%27/etc/passwd%27))",
        b"sort=read_text(%27/etc/passwd%27)",
        b"sort=%22%20desc;%20drop%20table%20images",
        b"after=" + HUGE,
        b"down=perhaps",
    ],
)
def test_conditions_are_conditions_and_nothing_else(port, query):
    assert refused(get(port, b"/s/one/images?" + query))
    assert refused(get(port, b"/api/s/one/images?" + query))


def test_what_is_typed_is_shown_as_text(port):
    for path in (
        b"/s/<script>alert(1)</script>",
        b"/s/one/images?where=%3Cscript%3Ealert(1)%3C/script%3E",
    ):
        answer = get(port, path.replace(b"<", b"%3C").replace(b">", b"%3E"))
        assert b"<script>alert" not in answer


def test_a_picture_of_a_hundred_megapixels_is_refused(port):
    bomb = encode(Image.new("1", (10_000, 10_000)))
    answer = post(port, b"/s/one/picture?name=bomb.png", bomb)
    assert status(answer) == 400
    assert b"decompression bomb" in answer


@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE"])
def test_nothing_but_reading_is_understood(port, method):
    for path in (b"/s/one", b"/s/one/picture"):
        answer = ask(
            port,
            method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        assert refused(answer)
