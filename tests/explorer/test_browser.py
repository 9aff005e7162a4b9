"""Every view in a real browser: what it asks for, what it says, how it looks, what it answers."""

from itertools import pairwise

import pytest

from tests.explorer import served, visits, world
from tests.explorer.served import FAULTS, Tab


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = world.make(tmp_path_factory.mktemp("explorer"))
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
    assert visits.views() <= set(visits.VISITS)


@pytest.mark.parametrize("address", visits.addresses())
def test_a_view_can_be_read_and_asks_nobody_else(tab, address, request):
    if visits.UPLOAD in address:
        address = address.replace(visits.UPLOAD, request.getfixturevalue("upload"))
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
