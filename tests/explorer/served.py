"""A server as it is started by hand, and a browser that reports whatever is amiss."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Request, Route, sync_playwright

from pipeline.microworld import draw
from tests.explorer.world import World

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZES = ((390, 900), (1280, 900))
SCHEMES = ("light", "dark")
# Milliseconds: the first search of a server reads libraries in, and others may want the machine.
PATIENCE = 120_000
AUDIT = (ROOT / "tests/pipeline/pages/audit.js").read_text()
FAULTS = ("outside", "pale", "tiny", "twice", "nowhere", "unsaid", "unnamed", "broken")
# Every picture is there, also those that wait until they are scrolled to.
SETTLE = """async () => {
  const pictures = [...document.images];
  for (const picture of pictures) picture.loading = "eager";
  await Promise.all(pictures.map(p => p.complete || new Promise(r => p.onload = p.onerror = r)));
}"""


@contextlib.contextmanager
def serve(world: World) -> Iterator[str]:
    """``facet explore`` in a process of its own; its address, without a slash at the end."""
    command = [
        sys.executable, "-m", "jobs.explore", "--store", *world.stores, "--rosetta", world.rosetta,
    ]  # fmt: skip
    known = {**os.environ, "BROWSER": "true", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"http://[\d.]+:\d+", line):
                    break
            else:
                pytest.fail("no address: " + "".join(said))
            yield found[0]
        finally:
            process.terminate()


def bring(address: str) -> str:
    """Bring a picture to a server; what it is called there, as soon as the model has seen it."""
    buffer = io.BytesIO()
    Image.fromarray(draw.picture(9, "test", 4)[0]).save(buffer, "PNG")
    data = buffer.getvalue()
    asked = urllib.request.Request(f"{address}/s/world/picture?name=one.png", data, method="POST")
    with urllib.request.urlopen(asked) as answer:
        name = json.load(answer)["id"]
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/s/world/picture/{name}").close()
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(0.2)
        else:
            return name
    pytest.fail("the model is still not there")


@contextlib.contextmanager
def browse() -> Iterator[Browser]:
    """The browser of this machine; nothing is downloaded."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page of a browser, and all that went wrong on it.

    Attributes
    ----------
    page : Page
    address : str
        Of the server.
    faults : list of str
        Requests to elsewhere, which are not let through; errors that the console tells, among them
        what the server's content policy forbids; answers that are no success.
    """

    page: Page
    address: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.route("**/*", self._let_through)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self._heard)
        self.page.on("requestfailed", self._failed)

    def _let_through(self, route: Route) -> None:
        asked = route.request.url
        if asked.startswith((f"{self.address}/", "blob:")):
            route.continue_()
        else:
            self.faults.append(f"asked elsewhere: {asked}")
            route.abort()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _failed(self, request: Request) -> None:
        # A picture that is no longer wanted is given up: that is no fault.
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(f"failed: {request.url}: {request.failure}")

    def go(self, address: str) -> None:
        """Open an address of the server, as the one before it is left."""
        answer = self.page.goto(self.address + address)
        if answer is not None and not answer.ok:
            self.faults.append(f"{answer.status}: {address}: {self.page.inner_text('main')}")
        if self.page.locator("#sliders").count():
            self.page.wait_for_selector("#sliders input", state="attached")
        self.page.evaluate(SETTLE)

    def audit(self) -> dict[str, Any]:
        """What ``audit.js`` finds of the page as it is."""
        return self.page.evaluate(f"() => {{ {AUDIT}; return audit(window); }}")

    def sizes(self) -> Iterator[tuple[str, str]]:
        """The page in each width and scheme, one after the other; their names."""
        for width, height in SIZES:
            self.page.set_viewport_size({"width": width, "height": height})
            for scheme in SCHEMES:
                self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                yield f"{width}", scheme


@contextlib.contextmanager
def tab(browser: Browser, address: str) -> Iterator[Tab]:
    """A page of its own, without memory of others."""
    with browser.new_context(accept_downloads=True) as context:
        context.set_default_timeout(PATIENCE)
        yield Tab(context.new_page(), address)
