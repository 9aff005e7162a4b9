"""One odd address among good rows: its own image is bad, for a short reason, and nothing else."""

import base64
import http.server
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.images import files
from pipeline.images.addresses import WEB_ATTEMPTS, address_in, shown
from pipeline.images.errors import REASON_LENGTH, BadImage
from pipeline.images.listing import list_images
from pipeline.images.load import LoadedImages, load_rows
from tests.pipeline.images.kit import png, write_tar

SEEN: Counter[str] = Counter()


class Handler(http.server.BaseHTTPRequestHandler):
    """``/<status>/<name>``: that status, ``cut`` for half an image, ``mute`` for no answer."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        SEEN[self.path] += 1
        what = self.path.split("/")[1]
        if what == "mute":
            self.close_connection = True
            return
        if what == "late":  # is well when it is asked again
            what = "503" if SEEN[self.path] == 1 else "200"
        status = {"circle": 302}.get(what) or (int(what) if what.isdigit() else 200)
        body = png(0) if status == 200 else b"no"
        body += bytes(1000 if what == "large" else 0)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.path if what == "circle" else "/404/moved")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if what == "cut" else body)


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FIRST_WAIT_S", 0.001)
    SEEN.clear()


def load(folder: Path, *values: str) -> LoadedImages:
    """A table of addresses, read; a good row stands before and after them."""
    (folder / "good.png").write_bytes(png(1))
    table = pa.table({"url": ["good.png", *values, "good.png"]})
    pq.write_table(table, folder / "t.parquet")
    rows = pa.concat_tables(list_images(str(folder / "t.parquet")))
    loaded = load_rows(rows, lambda image: np.asarray(image.resize((4, 4))), (4, 4))
    assert loaded.ok[[0, -1]].all()
    return loaded


def reason(folder: Path, value: str) -> str:
    error = load(folder, value).error[1]
    assert error is not None
    assert len(error) <= REASON_LENGTH
    return error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 451, 500, 503])
def test_a_status_is_the_reason(web: str, tmp_path: Path, status: int) -> None:
    assert reason(tmp_path, f"{web}/{status}/a.jpg") == f"HTTP {status}: {web}/{status}/a.jpg"
    final = status < 500 and status != 429
    assert SEEN[f"/{status}/a.jpg"] == (1 if final else WEB_ATTEMPTS)


def test_what_is_well_in_a_moment_is_no_bad_image(web: str, tmp_path: Path) -> None:
    assert load(tmp_path, f"{web}/late/a.jpg", f" HTTP{web[4:]}/200/a::b.jpg\n").ok.all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mute", "no connection"),
        ("cut", "an answer that cannot be read"),
        ("circle", "an answer that cannot be read"),
    ],
)
def test_an_answer_that_does_not_come_or_breaks_off(
    web: str, tmp_path: Path, name: str, kind: str
) -> None:
    assert reason(tmp_path, f"{web}/{name}/a.jpg") == f"{kind}: {web}/{name}/a.jpg"


def test_a_redirect_ends_where_it_leads(web: str, tmp_path: Path) -> None:
    assert reason(tmp_path, f"{web}/302/a.jpg") == f"HTTP 404: {web}/302/a.jpg"


def test_what_would_fill_the_memory_is_no_picture(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000)
    (tmp_path / "large.png").write_bytes(png(0) + bytes(1000))
    kind = "a file too large for a picture: "
    assert reason(tmp_path, "large.png") == f"{kind}{tmp_path}/large.png, over 1,000 bytes"
    assert reason(tmp_path, f"{web}/large/a.jpg") == f"{kind}{web}/large/a.jpg"
    table = pa.concat_tables(list_images(str(tmp_path / "large.png")))
    (said,) = load_rows(table, np.asarray, (4, 4)).error
    assert str(said).startswith(kind)
    write_tar(tmp_path / "t.tar", [("large.png", bytes(1001)), ("a.png", png(0))])
    table = pa.concat_tables(list_images(str(tmp_path / "t.tar")))
    (said, fine) = load_rows(table, lambda image: np.zeros((4, 4, 3), np.uint8), (4, 4)).error
    assert str(said).startswith(f"{kind}{tmp_path}/t.tar")
    assert fine is None


def test_a_host_that_stays_silent_is_not_waited_for_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(url: str) -> bytes:
        asked.append(url)
        if "good" in url:
            return png(0)
        raise TimeoutError

    monkeypatch.setattr("pipeline.images.addresses.read_web", answer)
    names = ["0", "1", "good", *map(str, range(2, 50))]
    loaded = load(tmp_path, *(f"http://far.invalid/{name}" for name in names))
    assert loaded.ok.nonzero()[0].tolist() == [0, 3, 52]
    assert loaded.error[1] == "no answer in time: http://far.invalid/0"
    assert loaded.error[51] == "a host that does not answer: http://far.invalid/49"
    assert [url.rpartition("/")[2] for url in asked] == ["0", "1", "good", "2", "3", "4"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http:///x.jpg", "an address without a host: http:///x.jpg"),
        ("http://127.0.0.1:9/x.jpg", "no connection: http://127.0.0.1:9/x.jpg"),
        ("http://no-such-host.invalid/x", "unknown host: http://no-such-host.invalid/x"),
        ("http://[::1/x.jpg", "an address that is malformed: http://[::1/x.jpg"),
        ("http://127.0.0.1:99999/x", "an address that is malformed: http://127.0.0.1:99999/x"),
        ("ftp2://x/y.jpg", "an address of an unknown scheme: ftp2://x/y.jpg"),
        ("://x/y.jpg", "an address without a host: ://x/y.jpg"),
        ("http://me:hush@h/x.jpg", "an address with credentials in it: http://h/x.jpg"),
        ("http://h/x?a=1&sig=hush", "an address with credentials in it: http://h/x?…"),
        ("s3://me:hush@bucket/x.jpg", "an address with credentials in it: s3://bucket/x.jpg"),
        ("http://127.0.0.1:9/x.jpg?token=hush", "no connection: http://127.0.0.1:9/x.jpg?…"),
        ("no\0thing", r"neither a path nor an address: 8 characters, no\x00thing…"),
    ],
)
def test_addresses_that_cannot_be_asked(tmp_path: Path, value: str, expected: str) -> None:
    assert reason(tmp_path, value) == expected


def test_data_in_place_of_an_address(tmp_path: Path) -> None:
    small = base64.b64encode(png(0)).decode()
    noise = base64.b64encode(np.random.default_rng(0).bytes(60_000)).decode()
    for value in (small, noise, f"data:image/png;base64,{small}"):
        start = "neither a path nor an address: "
        assert reason(tmp_path, value) == f"{start}{len(value):,} characters, {value[:24]}…"


def test_what_is_kept_of_addresses_has_no_secret_and_no_picture(tmp_path: Path) -> None:
    values = ["http://h/x?a=1&sig=hush", "http://me:hush@h/x", "QUJD" * 2000, None, "a@b?c.png"]
    pq.write_table(pa.table({"url": [*values, "http://h/x?id=7"]}), tmp_path / "t.parquet")
    kept = pa.concat_tables(list_images(str(tmp_path / "t.parquet")))["url"].to_pylist()
    cut = "QUJD" * 6 + "…"
    assert kept == ["http://h/x?…", "http://h/x", cut, None, "a@b?c.png", "http://h/x?id=7"]


def test_a_long_path_keeps_its_ends(tmp_path: Path) -> None:
    found = reason(tmp_path, "d/" * 400 + "end.png")
    assert found.startswith(f"does not exist: {tmp_path}/d/d/")
    assert "…" in found
    assert found.endswith("to nothing)")


def test_forms_of_one_address() -> None:
    assert address_in("a/b.png", "s3://bucket/t") == "s3://bucket/t/a/b.png"
    assert address_in("/a/b.png", "/t") == address_in("FILE:///a/b.png", "/t") == "/a/b.png"
    assert address_in("HTTPS://Host/A", "/t") == "https://Host/A"
    assert shown("s3://u@b/a#b") == "s3://b/a?…"
    assert shown("/odd?path#x") == "/odd?path#x"


def test_a_reason_is_one_printable_line_and_survives_the_way_to_the_driver() -> None:
    bad = pickle.loads(pickle.dumps(BadImage("cut", "a\nb\x1b[31m" + "c" * 500)))
    assert str(bad).startswith(r"cut: a b\x1b[31mccc")
    assert len(str(bad)) == REASON_LENGTH
    assert (bad.kind, str(BadImage("cut"))) == ("cut", "cut")


def test_pictures_of_good_addresses_are_read(web: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, f"{web}/200/a.jpg?x=1", f"file://{tmp_path}/good.png")
    assert loaded.ok.all()
    expected = np.asarray(Image.open(tmp_path / "good.png").resize((4, 4)))
    np.testing.assert_array_equal(loaded.pixels[2], expected)
