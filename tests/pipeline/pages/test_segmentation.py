"""Sections of maps against masks, from made-up results."""

import numpy as np
import pytest
import torch

from pipeline.heatmaps.answers import Segmented
from pipeline.heatmaps.scores import relevance
from pipeline.pages import segmentation_figure
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


def test_pictures_lie_under_what_is_held_to_their_masks(made, monkeypatch):
    sheet, laid, heat = made[1], [], segmentation_figure.heat

    def note(pixels, map_yx, *between):
        laid.append(map_yx)
        return heat(pixels, map_yx, *between)

    monkeypatch.setattr(segmentation_figure, "heat", note)
    segmentation_figure.sheet_figure(sheet)
    shown = iter(laid)
    for masks_yx, maps_myx in zip(sheet.masks_nyx, sheet.maps_nmyx, strict=True):
        meant = {0: 0.0, 1: 1.0, 255: -1.0}
        np.testing.assert_array_equal(next(shown), np.vectorize(meant.get)(masks_yx))
        for method, map_yx in zip(SHOWN, maps_myx, strict=True):
            clipped = method.startswith("tokens")
            want = relevance(torch.from_numpy(map_yx)[None], masks_yx.shape, clipped)[0]
            np.testing.assert_array_equal(next(shown), want)
