"""``facet explore`` as its users meet it: an address, pages behind it, and an end by Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs import explore
from jobs.recipes import explore as recipe
from storage.errors import FacetError
from tests.refusals import refused
from tests.storage import stores

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return stores.fill(stores.new_store(str(tmp_path_factory.mktemp("s") / "one"))).url


@contextmanager
def explored(*arguments):
    """The job in a process of its own, and the addresses that it printed."""
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "explore", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "BROWSER": ""},
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        try:
            yield process, re.findall(r"Facet is at (\S+)", "".join(said))
        finally:
            process.kill()


def get(address, **headers):
    """The page of an address, once the server answers."""
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_pages_stand_at_the_address_that_is_printed_until_it_is_stopped(store):
    with explored("--store", store) as (process, (address,)):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert "/s/one" in get(address)
        assert get(address + "s/other").startswith("404")
        assert get(address, Host="evil.example").startswith("421")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout.read().startswith("ended\n")


def test_for_other_machines_the_address_holds_a_token(store, free_port, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    at = ["--host", "0.0.0.0", "--port", str(free_port)]
    with explored("--store", store, *at) as (process, (named, here)):
        token = named.partition("?token=")[2]
        assert len(token) >= 32
        assert here == f"http://127.0.0.1:{free_port}/?token={token}"
        assert get(here.partition("?")[0]).startswith("401")
        bearer = f"Bearer {token}"
        assert "/s/one" in get(here.partition("?")[0], Authorization=bearer)
        assert list(tmp_path.glob("facet-pictures-*"))
        process.terminate()  # as whoever runs services does
        assert process.wait(60) == 143
        assert not list(tmp_path.glob("facet-pictures-*"))


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_a_port_that_is_taken_is_refused_at_once(store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with refused(
            FacetError, f"cannot listen at --host 127.0.0.1, --port {port}: Address already"
        ):
            explore.check(explore.ExploreConfig(store=(store,), port=port))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": 70_000}, "--port 70000: must be at most 65535"),
        ({"port": -1}, "--port -1: must be at least 0"),
        ({"host": "203.0.113.7"}, "cannot listen at --host 203.0.113.7"),
        ({"host": "no machine"}, "no machine is known by this name"),
        ({"store": ()}, "--store: name at least one"),
        ({"rosetta": ("/nowhere",)}, "--rosetta /nowhere: no shared units are there"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(store, given, said):
    with refused(FacetError, re.escape(said)):
        explore.check(explore.ExploreConfig(**{"store": (store,), **given}))


def test_what_is_not_installed_is_named(store, monkeypatch):
    monkeypatch.setattr(explore, "NEEDED", ("fastapi", "no_such_library"))
    with refused(FacetError, r"no_such_library: pip install 'facet-interp\[explore\]'"):
        explore.check(explore.ExploreConfig(store=(store,)))


def test_a_browser_is_opened_where_there_is_one(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not recipe.has_browser()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert recipe.has_browser()


def test_an_address_of_the_newer_kind_stands_in_brackets():
    assert recipe.addresses("::1", 80, None) == ["http://[::1]:80/"]
