"""Every address over stores as users have them: half finished, growing, damaged, of odd columns.

Whatever is asked ends in a page or in words, and what is shown is what the store holds now.
"""

import datetime
import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from jobs.pages import as_typed, following
from pipeline.explorer.library import Library
from pipeline.explorer.model import ModelProcess, NotYet
from pipeline.explorer.web.app import ROUTERS, make_app
from pipeline.explorer.web.serving import guarded
from storage import open_store
from storage.growth import grow
from storage.images import write_images
from storage.layout import model_arrays
from storage.store import create_store
from tests.pipeline.explorer import headed, pictured
from tests.storage import stores

NAMES = {"index": "3", "at": "1.0", "name": "colours", "neuron": "1.0", "picture": "none"}
NAMES |= {"job": "label", "result": "latest", "table": "labels", "number": "0", "rank": "0"}


def addresses(store):
    """Every page of a store, and every picture."""
    for name in ROUTERS:
        for route in import_module(f"pipeline.explorer.web.{name}").router.routes:
            if "GET" in route.methods and route.path.startswith("/s/"):
                known = {**NAMES, "store": store}
                if "{job}" in route.path:
                    known["name"] = "latest"
                yield re.sub(r"{(\w+)[^}]*}", lambda m: known[m[1]], route.path)  # noqa: B023


@pytest.fixture
def look(monkeypatch, here):
    """Looks at a store as a server does."""
    # What runs a model has tests of its own.
    monkeypatch.setattr(ModelProcess, "ask", not_yet)
    monkeypatch.setattr(ModelProcess, "begin", lambda *asked: None)

    def at(url):
        library = Library([url], [], following, as_typed)
        app = guarded(make_app(library), library, "127.0.0.1", None)
        client = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
        client.later = next(iter(library.stores.values())).look_again  # some seconds pass
        return client

    return at


def not_yet(*asked):
    raise NotYet("the model is being loaded")


def walk(client, store):
    """Ask everything; answers by address."""
    found = {}
    for address in addresses(store):
        for asked in (address, f"/api{address}"):
            answer = client.get(asked)
            assert answer.status_code in (200, 400, 404, 503), (asked, answer.text)
            assert "Traceback" not in answer.text
            if answer.headers["content-type"] == "application/json":
                json.loads(answer.text, parse_constant=pytest.fail)
            found[asked] = answer
    return found


ODD = {
    "<b>bold</b>": lambda n: pa.array(["<script>alert(1)</script>"] * n),
    "a list": lambda n: pa.array([[i] for i in range(n)]),
    "bytes": lambda n: pa.array([b"\x00\xff"] * n),
    "day": lambda n: pa.array([datetime.date(2020, 1, 1 + i) for i in range(n)]),
    "time": lambda n: pa.array(
        [None if i == 1 else datetime.datetime(2020, 1, 1, i) for i in range(n)],
        pa.timestamp("us", "UTC"),
    ),
    "nothing": lambda n: pa.nulls(n),
    "größe, 大きさ": lambda n: pa.array([float("inf"), *[float("nan")] * (n - 1)]),
    "decimal": lambda n: pa.array([None] * n, pa.decimal128(5, 2)),
    "group": lambda n: pa.array([True, *[None] * (n - 1)]),
    **{f"column {i}": lambda n: pa.array(range(n)) for i in range(285)},
}


def odd(url):
    """A store of an image table with 300 columns, some of them hardly any use."""
    meta = stores.metadata(preprocessing=pictured.SEEN)
    table = stores.image_table(meta.images)
    for name, make in ODD.items():
        table = table.append_column(name, make(meta.images))
    for name, value in (("caption", "<img src=x onerror=alert(1)> " * 500), ("key", "<i>k</i>")):
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array([value] * meta.images))
    at = table.column_names.index("label")
    table = table.set_column(at, "label", pa.nulls(meta.images, pa.string()))
    write_images(url, [table])
    maps = {s.name: np.ones(s.shape) for s in model_arrays(meta)}
    return stores.fill(create_store(url, meta, maps))


def test_columns_of_every_kind_are_shown_as_text(tmp_path, look):
    odd(str(tmp_path / "odd"))
    client = look(str(tmp_path / "odd"))
    found = walk(client, "odd")
    for address in ("/s/odd", "/s/odd/images", "/s/odd/image/3", "/s/odd/compare", "/s/odd/text"):
        page = found[address]
        assert page.status_code == 200, page.text[-500:]
        assert not re.search(r"<script>alert|<img src=x|<i>k|<b>bold", page.text)
    for name in ODD:
        for down in ("false", "true"):
            asked = {"sort": name, "down": down}
            assert client.get("/api/s/odd/images", params=asked).status_code in (200, 404)
        for asked in ({"groups": name}, {"label_column": name}):
            assert client.get("/s/odd/classes", params=asked).status_code in (200, 400, 503)
        if name == "column 2":  # those after it are alike
            break
    assert client.get("/s/odd/images", params={"sort": "time"}).status_code == 200


@pytest.mark.parametrize("done", [0, 1])
def test_a_store_that_is_not_finished_says_so(tmp_path, look, done):
    pictured.pictured(tmp_path, done=done)
    found = walk(look(str(tmp_path / "store")), "store")
    assert found["/s/store"].status_code == 200
    assert found["/api/s/store/images"].json()["images"] == 10
    assert found["/s/store/image/3"].status_code == 200


def test_a_store_that_grows_is_followed(tmp_path, look):
    store = stores.fill(stores.new_store(str(tmp_path / "one")))
    client = look(store.url)
    assert client.get("/api/s/one").json()["images"] == 10
    assert client.get("/s/one/image/12").status_code == 404
    store = grow(open_store(store.url, mode="r+"), [stores.image_table(5)])
    client.later()
    assert client.get("/api/s/one").json()["images"] == 15
    assert "not extracted yet" in client.get("/s/one/image/12").text
    stores.fill(store, [2, 3])
    client.later()
    assert client.get("/api/s/one/images?where=ok").json()["matching"] == 15
    assert "not extracted yet" not in client.get("/s/one/image/12").text


def test_results_that_come_and_go_are_followed(tmp_path, look):
    store = headed.headed(str(tmp_path / "one"), index=False, preprocessing=pictured.SEEN)
    client = look(store.url)
    before = walk(client, "one")
    assert before["/s/one/result/label/latest"].status_code == 404
    kept = headed.labelled(store)
    client.later()
    during = walk(client, "one")
    assert during["/s/one/result/label/latest"].status_code == 200
    assert during["/s/one/property/colours"].status_code == 200
    shutil.rmtree(kept.url)
    client.later()
    after = walk(client, "one")
    assert {a: f.status_code for a, f in after.items()} == {
        a: f.status_code for a, f in before.items()
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [("provenance.json", b"{"), ("config.json", b"[]"), ("labels.parquet", b"PAR1 PAR1")],
)
def test_a_damaged_result_is_named(tmp_path, look, name, content):
    store = headed.headed(str(tmp_path / "one"), index=False, preprocessing=pictured.SEEN)
    kept = headed.labelled(store)
    Path(kept.url, name).write_bytes(content)
    for page in [
        walk(look(store.url), "one")[f"/s/one/{n}"] for n in ("properties", "result/label/latest")
    ]:
        assert page.status_code == 400
        assert f"{kept.name} is damaged" in page.text
