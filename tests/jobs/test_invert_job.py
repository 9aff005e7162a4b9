"""Figures of inversions, from pictures that are given; what their settings change."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from jobs import invert, show
from jobs.invert import InvertConfig
from pipeline.rosetta.inversions import BOTH, GUIDED, PERCEPTUAL, InversionModels, measure
from pipeline.rosetta.models import load_units
from pipeline.rosetta.tables import SHARED
from storage import urls
from storage.results import Result, as_table, save_result
from storage.rosetta import Setup, keep_card, write_setup

STARTS, PICTURES = 3, 5


@pytest.fixture(scope="module")
def models() -> InversionModels:
    judge = load_units("microworld-mae")
    none = Result("", "rosetta", {}, {})
    return InversionModels(none, judge, judge, judge, pd.DataFrame(), pd.DataFrame())


def noisy(targets: torch.Tensor, db: np.ndarray) -> torch.Tensor:
    """Pictures at chosen signal-to-noise ratios, (starts, n, 3, h, w)."""
    off = torch.tensor(2 * 10 ** (-db / 20), dtype=torch.float32)  # pictures are in -1 … 1
    return targets + off[:, :, None, None, None]


def test_intervals_are_over_pictures_and_spreads_over_starts(models):
    targets = torch.rand(PICTURES, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    first = np.full((STARTS, PICTURES), 10.0)
    # Guidance adds 0 … 4 dB by picture, and 1 dB more or less by start.
    gain = np.arange(PICTURES) + np.array([-1.0, 0.0, 1.0])[:, None]
    found = {PERCEPTUAL: noisy(targets, first), BOTH: noisy(targets, first + gain)}
    table = measure(models, targets, found).set_index("loss")
    row = table.loc[BOTH]
    assert row["psnr"] == pytest.approx(12, abs=1e-3)
    assert row["psnr_change"] == pytest.approx(2, abs=1e-3)
    assert 0.2 < row["psnr_low"] < 1.2
    assert 2.8 < row["psnr_high"] < 3.8
    assert row["psnr_start_low"] == pytest.approx(1, abs=1e-3)
    assert row["psnr_start_high"] == pytest.approx(3, abs=1e-3)
    assert row["psnr_start_std"] == pytest.approx(np.std([-1, 0, 1]), abs=1e-3)
    same = table.loc[PERCEPTUAL]
    assert same["psnr_low"] == same["psnr_high"] == same["psnr_start_std"] == 0
    # More starts that end alike say nothing more of the pictures.
    twice = {name: torch.cat([tries, tries]) for name, tries in found.items()}
    again = measure(models, targets, twice).set_index("loss").loc[BOTH]
    assert again["psnr_low"] == pytest.approx(row["psnr_low"], abs=1e-5)


@pytest.fixture(scope="module")
def mined(tmp_path_factory) -> str:
    """What mining two models with a generator leaves; the pairs are made up."""
    url = str(tmp_path_factory.mktemp("mined"))
    names = ("microworld-generator", "microworld-cnn", "microworld-mae")
    cards = [load_units(name, generator=name == names[0]).card for name in names]
    write_setup(url, Setup("digest", 10, 5, 5, generator=names[0]))
    for card in cards:
        keep_card(url, card)
    units = [(c.name, c.layers[0].name, u, 0.0, 1.0, "alive") for c in cards for u in range(3)]
    pairs = [
        (names[0], cards[0].layers[0].name, u, c.name, c.layers[0].name, u, 0.5, 0.5, 0.5, True)
        for c in cards[1:]
        for u in range(3)
    ]
    sides = [f"{n}_{side}" for side in "ab" for n in ("model", "layer", "unit")]
    tables = {
        "units": pd.DataFrame(units, columns=["model", "layer", "unit", "mean", "std", "state"]),
        "buddies": pd.DataFrame(
            pairs, columns=[*sides, "correlation", "even", "odd", "replicates"]
        ),
    }
    save_result(
        url, "rosetta", {}, {}, tables={n: as_table(t, SHARED[n]) for n, t in tables.items()}
    )
    return url


def test_settings_of_inversions(mined, tmp_path):
    plain = InvertConfig(mined, "microworld:n=9,seed=2", str(tmp_path), limit=2, steps=4, starts=1)

    def figures(**changes) -> pd.DataFrame:
        return invert.main(replace(plain, **changes)).figures.set_index("loss")

    def moved(**changes) -> set[str]:
        after = figures(**changes)
        return {name for name in first.index if after["psnr"][name] != first["psnr"][name]}

    first = figures()
    everything = {PERCEPTUAL, GUIDED, BOTH}
    assert moved() == set()
    assert moved(beta=5.0) == {BOTH, GUIDED}
    for changes in (
        {"steps": 5}, {"rate": 0.3}, {"alpha": 10.0}, {"seed": 7}, {"starts": 2}, {"limit": 1},
        {"images": "microworld:n=9,seed=3"}, {"guide": "microworld-mae"},
    ):  # fmt: skip
        assert moved(**changes) == everything, changes
    judged = figures(judge="microworld-cnn")
    assert judged["psnr"].equals(first["psnr"])
    assert not judged["perceptual"].equals(first["perceptual"])


def test_what_was_found_is_kept_found_again_and_shown(mined, tmp_path, capsys):
    out = str(tmp_path / "out")
    config = InvertConfig(mined, "microworld:n=9,seed=2", out, limit=2, steps=2, starts=1)
    first = invert.main(config)
    assert first.result.url.startswith(f"{out}/results/invert/")
    names = urls.list_names(first.result.url)
    assert {"config.json", "provenance.json", "figures.parquet", "index.html", "zoom.png"} <= set(
        names
    )
    known = first.result.provenance
    assert (known["guide"], known["pairs"], known["pictures"]) == ("microworld-cnn", 3, 2)
    assert "revision" in known
    again = invert.main(replace(config, images="microworld:n=2,seed=2"))  # the same pictures
    assert again.result.name == first.result.name
    assert "finished before" in capsys.readouterr().out
    shown = show.main(show.ShowConfig("invert", out, format="json"))
    said = json.loads(capsys.readouterr().out)["found"]
    assert said["generator"] == "microworld-generator"
    assert [row["loss"] for row in said["figures"]] == [PERCEPTUAL, GUIDED, BOTH]
    assert said["figures"][2]["psnr"] == pytest.approx(first.figures["psnr"][2])
    assert urls.exists(shown.found.page)
    beside = invert.main(replace(config, out=None))
    assert beside.result.url.startswith(f"{mined}/results/invert/")
