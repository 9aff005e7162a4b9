"""``/api/openapi.json`` has every address that gives data, and says of each what it gives."""

import re
from importlib import import_module

import pytest

from pipeline.explorer.web.app import ROUTERS, make_app

MEDIA = {"png": "image/png", "jpg": "image/jpeg", "bin": "application/octet-stream"}
DESCRIBED = make_app(None).openapi()["paths"]


def addresses():
    """All but pages, which have their data at the same address under /api."""
    routes = [r for n in ROUTERS for r in import_module(f"pipeline.explorer.web.{n}").router.routes]
    paths = {re.sub(":path}", "}", route.path) for route in routes}
    return sorted(path for path in paths if f"/api{path}" not in paths)


@pytest.mark.parametrize("path", addresses())
def test_an_address_says_what_it_is_asked_and_gives(path):
    for method, about in DESCRIBED[path].items():
        assert about["description"].endswith(".")
        given = {p["name"] for p in about.get("parameters", ()) if p["in"] == "path"}
        assert given == set(re.findall(r"{(\w+)}", path))
        assert set(about["responses"]) == {"201" if method == "post" else "200", "4XX", "503"}
        assert ("requestBody" in about) == (method == "post")
        if method == "get":
            promised = MEDIA.get(path.rpartition(".")[2], "application/json")
            assert list(about["responses"]["200"]["content"]) == [promised]


def test_nothing_else_is_described():
    assert set(DESCRIBED) == set(addresses())
