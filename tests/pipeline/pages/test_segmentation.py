"""Sections of maps against masks, from made-up results."""

import pytest

from pipeline.heatmaps.answers import Segmented
from pipeline.pages.html import Made
from pipeline.pages.segmentation import segmentation_sections
from tests.pipeline.heatmaps.segmented import PROTOCOLS, SHOWN, segmented


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return segmented(tmp_path_factory.mktemp("segmented"))


def sections(tables, sheet):
    return segmentation_sections(Segmented(**tables), sheet, "label", "a b.txt", [], Made("facet"))


def test_every_method_has_a_row_under_every_protocol(made):
    table, pictures = sections(*made)
    methods = made[0]["methods"]
    best = methods[methods["protocol"] == PROTOCOLS[0]].nlargest(1, "miou")["method"].item()
    assert table.rows[0][:2] == (best, PROTOCOLS[0])
    assert {row[:2] for row in table.rows} == {(m, p) for p in PROTOCOLS for m in SHOWN}
    assert len(table.plots) == 4  # two curves, classes, what is erased
    assert "of the labelled class" in table.text
    assert (table.name, pictures.name) == ("segmentation-a-b-txt", "segmentation-a-b-txt-pictures")
    shown = len(made[1].cases) * (2 + len(SHOWN))
    assert pictures.plots[0].count("<img ") == shown


def test_masks_without_foreground_and_nothing_erased_have_no_pictures(made):
    tables = {name: of[of["protocol"] == PROTOCOLS[0]] for name, of in made[0].items()}
    none = dict.fromkeys(["deletion", "insertion"], float("nan"))
    tables |= {"curve": tables["curve"][:0], "methods": tables["methods"].assign(**none)}
    (table,) = sections(tables, None)
    assert len(table.plots) == 1
    assert len(table.header) == len(table.rows[0]) == 5
