"""Tables on a narrow terminal."""

import io

import pandas as pd
from rich.console import Console

from pipeline.heatmaps.answers import Segmented
from pipeline.pages.tables import segmentation
from tests.pipeline.heatmaps.segmented import PROTOCOLS, SHOWN, segmented


def test_maps_against_masks_are_whole_at_80_columns(tmp_path):
    tables, _ = segmented(tmp_path)
    console = Console(width=80, file=io.StringIO())
    console.print(segmentation(Segmented(**tables)))
    printed = console.file.getvalue()
    assert "…" not in printed
    erased = printed.split("patches go")[1]
    for method in SHOWN:
        assert printed.count(f" {method} ") == len(PROTOCOLS) + 1  # and what is erased
        assert method in erased
    of = tables["methods"].set_index(["protocol", "method"])
    shown = of.loc[pd.IndexSlice["published", "rollout"]]
    assert f"{shown['miou']:.1%}" in printed
    assert f"{shown['map']:.1%}" in printed
