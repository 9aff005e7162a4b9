"""Pages in a browser: nothing wider than a telephone, texts readable by day and by night."""

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests.pipeline.pages import kit

WIDTHS = (390, 1280)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


def audits(browser: str, folder: Path, page: str, dark: bool) -> list[dict]:
    """What ``audit.js`` finds in a page, at each width."""
    frames = "".join(
        f'<iframe width="{w}" height="900" style="border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for w in WIDTHS
    )
    scripts = (Path(__file__).with_name(name) for name in ("audit.js", "browser.js"))
    script = "".join(s.read_text() for s in scripts)
    place = folder / "frames.html"
    head = '<!doctype html><meta charset="utf-8"><pre id="out"></pre>'
    place.write_text(f"{head}{frames}<script>{script}</script>")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu",
        f"--user-data-dir={folder / 'user'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", place.as_uri(),
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="out">(.*?)</pre>', said.stdout, re.DOTALL)
    assert found is not None, said.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_can_be_read_on_a_telephone_and_on_a_screen(browser, tmp_path, dark):
    for found in audits(browser, tmp_path, kit.whole(), dark):
        assert found["dark"] == dark
        assert found["texts"] > 200
        assert not found["wide"]
        levels = found["levels"]
        assert levels[0] == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
        faults = (
            "outside",
            "pale",
            "tiny",
            "twice",
            "nowhere",
            "unsaid",
            "unnamed",
            "asked",
            "broken",
        )
        assert {name: found[name] for name in faults} == {name: [] for name in faults}


def test_what_cannot_be_read_is_found(browser, tmp_path):
    page = """<body style="background: #fff; margin: 0">
        <h1 id="a" style="color: #999">pale</h1><h3 id="a">b</h3><p style="width: 500px">wide</p>
        <img src="data:,"><a href="#b" style="font-size: 6px">tiny</a>
        <i style="color: #777; background: color-mix(in srgb, #000 50%, #fff)">grey on grey</i>"""
    narrow, wide = audits(browser, tmp_path, page, dark=False)
    assert narrow["wide"]
    assert "wide" in narrow["outside"]
    assert not wide["wide"]
    assert [text for text, _ in narrow["pale"]] == ["pale", "grey on grey"]
    assert [text for text, _ in narrow["tiny"]] == ["tiny"]
    assert (narrow["twice"], narrow["nowhere"], narrow["levels"]) == (["a"], ["b"], [1, 3])
    assert len(narrow["unsaid"]) == len(narrow["broken"]) == 1
