"""Pictures and pages of the image table, through the application."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.explorer.web.app import make_app
from tests.pipeline.explorer.pictured import library, pictured


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    store = pictured(tmp_path_factory.mktemp("pictured"))
    return TestClient(make_app(library(store)), base_url="http://127.0.0.1")


def test_pictures_have_addresses(asked: TestClient, tmp_path: Path) -> None:
    small = asked.get("/s/store/image/1/thumbnail.jpg")
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (192, 128)
    seen = asked.get("/s/store/image/1/seen.png")
    assert seen.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(seen.content)).size == (32, 32)
    assert asked.get("/s/store/image/3/seen.png").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("index", ["10", "-1", "9" * 400])
def test_an_image_that_is_not_there(asked: TestClient, index: str) -> None:
    found = asked.get(f"/s/store/image/{index}/thumbnail.jpg")
    assert found.status_code in (400, 404)
    assert "<h1>" in found.text
