"""Every view in a real browser: what it asks for, what it says, how it looks, what it answers."""

import json
import time
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from pipeline.microworld import draw
from tests.explorer import served, visits, world
from tests.explorer.served import FAULTS, Tab


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def server(made):
    with served.serve(made) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with served.browse() as found:
        yield found


@pytest.fixture(scope="module")
def upload(server) -> str:
    """What a picture is called that was brought."""
    return served.bring(server)


@pytest.fixture
def tab(browser, server):
    with served.tab(browser, server) as found:
        yield found
        assert found.faults == []


def test_every_view_is_visited():
    assert visits.views() == set(visits.VISITS)


@pytest.mark.parametrize("address", visits.addresses())
def test_a_view_can_be_read_and_asks_nobody_else(tab, address, made, request):
    upload = request.getfixturevalue("upload") if visits.UPLOAD in address else ""
    address = visits.filled(address, made, upload)
    tab.go(address)
    wrong = {}
    for name in tab.sizes():
        found = tab.audit()
        assert found["dark"] == (name[1] == "dark")
        wrong |= {(*name, fault): found[fault] for fault in FAULTS if found[fault]}
        if found["wide"]:
            wrong[*name, "wide"] = found["wide"]
        levels = found["levels"]
        if levels[:1] != [1] or any(later > earlier + 1 for earlier, later in pairwise(levels)):
            wrong[*name, "levels"] = levels
    assert wrong == {}
    assert tab.page.title() not in ("", "Facet") or address == "/"
    focus_is_seen(tab)
    document = tab.page.request.get(tab.address + f"/api{address}")
    assert document.ok
    assert document.headers["content-type"] == "application/json"
    assert isinstance(document.json(), dict)


def focus_is_seen(tab: Tab) -> None:
    """Whatever the keyboard reaches says where it is, and nothing is jumped over."""
    tab.page.keyboard.press("Tab")
    hidden = tab.page.evaluate("""() => {
      const all = [...document.querySelectorAll("a[href], button, input, select, textarea")]
        .filter(e => e.checkVisibility() && e.type !== "hidden" && !e.disabled);
      return all.filter(e => { e.focus(); const style = getComputedStyle(e);
        return document.activeElement !== e || e.tabIndex < 0
          || style.outlineStyle === "none" && style.boxShadow === "none"; })
        .map(e => e.outerHTML.slice(0, 80));
    }""")
    assert hidden == []


def test_every_question_is_two_clicks_from_the_start(tab):
    """What CLIP-InterpreT answers: properties of heads, an image, where, what is alike, by text."""
    tab.go("/")
    asked = tab.page.locator("section:has(#store-world) .asks a")
    found = {link: asked.nth(link).get_attribute("href") for link in range(asked.count())}
    assert len(found) >= 5
    for link, address in found.items():
        asked.nth(link).click()
        tab.page.wait_for_load_state()
        assert tab.page.url == tab.address + address
        assert tab.page.locator("main img, main .bar, main table").count()
        tab.page.go_back()
        assert tab.page.url == tab.address + "/"


def test_a_typed_text_is_shown_without_another_page(tab):
    tab.go("/s/world/image/7/maps?text=snow")
    tab.page.evaluate("window.same = true")
    shown = tab.page.locator("#found figure")
    shown.nth(1).wait_for()
    tab.page.get_by_label("Text 1").fill("a blue heart")
    tab.page.locator("#found", has_text="a blue heart").wait_for()
    tab.page.get_by_label("Rather than").fill("a red star")
    tab.page.locator("#found", has_text="a red star").wait_for()
    tab.page.evaluate(served.SETTLE)
    assert tab.audit()["broken"] == []
    assert "text=a+blue+heart&against=a+red+star" in tab.page.url
    assert tab.page.evaluate("window.same")


def test_a_text_that_no_pool_has_waits_for_the_model_with_words(tab):
    tab.go("/s/world/text")
    tab.page.get_by_label("Text", exact=True).fill("seven green ducks in a row")
    tab.page.locator("#found", has_text="seven green ducks in a row").wait_for()
    tab.page.locator("#found .thumb").first.wait_for()


def test_a_region_of_a_map_is_chosen_by_dragging_over_it(tab):
    tab.go("/s/world/head/3.0/map?colour=background")
    tab.page.locator("svg.map").scroll_into_view_if_needed()
    box = tab.page.locator("svg.map").bounding_box()
    assert box
    tab.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.9, steps=3)
    tab.page.mouse.up()
    tab.page.wait_for_url("**x0=**")
    tab.page.get_by_role("heading", name="The region").wait_for()
    edges = parse_qs(urlsplit(tab.page.url).query)
    whole = tab.page.locator("svg.map").first
    x0, x1, y0, _ = (float(whole.get_attribute(f"data-{e}") or 0) for e in ("x0", "x1", "y0", "y1"))
    side = x1 - x0  # the map is a square
    chosen = [float(edges[e][0]) for e in ("x0", "x1", "y0", "y1")]
    expected = [x0 + side / 4, x0 + side / 2, y0 + side / 10, y0 + side / 2]
    assert chosen == pytest.approx(expected, abs=0.01 * side)
    assert edges["colour"] == ["background"]
    tab.page.go_back()
    assert "x0" not in tab.page.url


def test_a_slider_moves_figures_at_once_as_the_server_has_them(tab):
    tab.go("/s/world/what-if?classes=microworld:shape&groups=background")
    whole = tab.page.locator("#figures [data-kind=whole] [data-after]")
    before = whole.inner_text()
    slider = tab.page.get_by_label("gain of layer 3", exact=True)
    slider.evaluate("e => e.closest('details').open = true")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2, steps=5)
    tab.page.mouse.up()
    assert whole.inner_text() != before
    tab.page.wait_for_url("**gains=*3.0*")
    rows = [row.inner_text().split() for row in tab.page.locator("#figures tr").all()]
    tab.go(tab.page.url.removeprefix(tab.address))  # as a colleague who was sent the address
    assert [row.inner_text().split() for row in tab.page.locator("#figures tr").all()] == rows
    with tab.page.expect_download() as saved:
        tab.page.locator("#save").click()
    edit = json.loads(Path(saved.value.path()).read_text())
    assert edit


def test_a_picture_of_ones_own_is_brought_and_asked_about(tab, tmp_path):
    Image.fromarray(draw.picture(9, "test", 11)[0]).save(tmp_path / "mine.png")
    tab.go("/")
    field = tab.page.locator("section:has(#store-world) input[type=file]")
    field.set_input_files(tmp_path / "mine.png")
    tab.page.wait_for_url("**/picture/*")
    tab.page.locator("h1", has_text="mine.png").wait_for()
    tab.page.locator("main a[href$='/maps']").first.click()
    tab.page.wait_for_url("**/maps")
    tab.page.go_back()
    tab.page.locator("h1", has_text="mine.png").wait_for()
    (tmp_path / "none.png").write_bytes(b"no picture")
    tab.go("/")
    field.set_input_files(tmp_path / "none.png")
    tab.page.locator("form.upload output", has_text="none.png").first.wait_for()
    assert [f for f in tab.faults if "400" not in f] == []
    tab.faults.clear()  # the browser tells of an answer that is no success, as it should be here


def test_what_is_not_there_is_said_in_words(tab):
    for address, words in (
        ("/s/nowhere", "world, other, folder"),
        ("/s/world/image/999999", "999999"),
        ("/s/world/head/9.9", "9.9"),
        ("/nothing", "there is no such page"),
    ):
        tab.page.goto(tab.address + address)
        assert words in tab.page.inner_text("main")
        assert tab.page.locator("main a").count()
    assert all("404" in fault for fault in tab.faults)
    tab.faults.clear()


def test_what_is_amiss_is_found(browser, server):
    with served.tab(browser, server) as found:
        found.go("/")
        found.page.evaluate("""() => {
          document.body.append(Object.assign(new Image(), {src: "http://elsewhere.invalid/a.png"}));
          document.body.setAttribute("style", "color: red");
          setTimeout(() => { throw new Error("broken"); });
        }""")
        for fault in ("elsewhere.invalid", "Content Security Policy", "error: broken"):
            until = time.monotonic() + 20
            while not any(fault in said for said in found.faults) and time.monotonic() < until:
                found.page.wait_for_timeout(20)
            assert any(fault in said for said in found.faults), found.faults
